package main

import "context"

func benchAgent(context.Context) error   { return nil }
func benchLatency(context.Context) error { return nil }
