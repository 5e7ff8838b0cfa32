// Package upgrade installs and upgrades the chart on a real API server by every road that people take, and sees that what the programs
// wrote is still there. No pod runs. With the build tag kubernetes only:
//
//	go test -tags kubernetes ./test/kubernetes/upgrade
package upgrade
