package etcd

import "testing"

// A URL without a port has its scheme's, here as everywhere.
func TestPortOfAnEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://etcd.example": "https://etcd.example:443", "http://etcd": "http://etcd:80", "http://[fd00::1]": "http://[fd00::1]:80",
		"http://etcd:2379": "http://etcd:2379", "etcd:2379": "etcd:2379", "unix:///run/etcd.sock": "unix:///run/etcd.sock",
	} {
		if got := withPort(endpoint); got != want {
			t.Errorf("%s becomes %s, want %s", endpoint, got, want)
		}
	}
}
