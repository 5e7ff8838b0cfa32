// Package chart renders charts/holdfast with Helm's own library, for every combination of values that matters, and holds what comes
// out to what the chart promises. It needs no cluster.
package chart
