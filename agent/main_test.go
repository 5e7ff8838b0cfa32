package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

func TestMain(m *testing.M) {
	etcdproc.Main()
	goleak.VerifyTestMain(m)
	os.Exit(0)
}
