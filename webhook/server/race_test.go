//go:build race

package server

// raceEnabled says that the tests run under the race detector, where speed and memory mean nothing.
const raceEnabled = true
