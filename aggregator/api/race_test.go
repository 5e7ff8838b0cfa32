//go:build race

package api

// raceEnabled says that the tests run under the race detector, where speed means nothing.
const raceEnabled = true
