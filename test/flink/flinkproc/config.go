package flinkproc

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// JVMOptions are those of every process of Flink. Small and quick to start rather than quick to run: a cluster lives for seconds, and
// there are several. And what Flink opens for itself in its shell scripts (env.java.opts.all of its default configuration).
func JVMOptions() []string {
	options := []string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"}
	for _, name := range []string{
		"java.lang", "java.lang.reflect", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.text", "java.time",
		"java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks",
	} {
		options = append(options, "--add-opens=java.base/"+name+"=ALL-UNNAMED")
	}
	return append(options,
		"--add-exports=java.base/sun.net.util=ALL-UNNAMED",
		"--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED")
}

// baseConfig holds for every process of a cluster. A TaskManager that is started without Flink's shell scripts needs all
// memory options from cpu.cores to jvm-overhead.max, or it ends with a bare IllegalArgumentException.
func baseConfig(dir string, slots int) map[string]string {
	return map[string]string{
		"jobmanager.bind-host":  "127.0.0.1",
		"rest.address":          "127.0.0.1",
		"rest.bind-address":     "127.0.0.1",
		"taskmanager.host":      "127.0.0.1",
		"taskmanager.bind-host": "127.0.0.1",
		"io.tmp.dirs":           filepath.Join(dir, "tmp"),
		"web.tmpdir":            filepath.Join(dir, "tmp"),

		"taskmanager.numberOfTaskSlots":              strconv.Itoa(slots),
		"taskmanager.cpu.cores":                      "1",
		"taskmanager.memory.framework.heap.size":     "64m",
		"taskmanager.memory.framework.off-heap.size": "32m",
		"taskmanager.memory.task.heap.size":          "64m",
		"taskmanager.memory.task.off-heap.size":      "0m",
		"taskmanager.memory.network.min":             "16m",
		"taskmanager.memory.network.max":             "16m",
		"taskmanager.memory.managed.size":            "8m",
		"taskmanager.memory.jvm-metaspace.size":      "96m",
		"taskmanager.memory.jvm-overhead.min":        "32m",
		"taskmanager.memory.jvm-overhead.max":        "32m",

		// A lost process is noticed by two heartbeats that nobody takes: 2 s instead of 20 s. One that is only paused has
		// Flink's own 50 s, heartbeat.timeout.
		"heartbeat.interval": "1s",
		// Flink waits 10 s after a connection that was refused, which is every first one when all start at once.
		"cluster.registration.error-delay":     "200ms",
		"classloader.check-leaked-classloader": "false",
	}
}

// haConfig makes JobManagers elect a leader and remember jobs.
func haConfig(dir string, zookeeperPort int) map[string]string {
	return map[string]string{
		"high-availability.type":             "zookeeper",
		"high-availability.zookeeper.quorum": fmt.Sprintf("127.0.0.1:%d", zookeeperPort),
		"high-availability.storageDir":       "file://" + filepath.Join(dir, "ha"),
		"high-availability.cluster-id":       "/holdfast",
		// The time after which another JobManager may lead when the leader was killed. A minute by default.
		"high-availability.zookeeper.client.session-timeout":    "5s",
		"high-availability.zookeeper.client.connection-timeout": "5s",
		"high-availability.zookeeper.client.retry-wait":         "500ms",
	}
}

// writeConfig writes the folder that --configDir names.
func writeConfig(dir string, configs ...map[string]string) error {
	merged := map[string]string{}
	for _, config := range configs {
		maps.Copy(merged, config)
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		fmt.Fprintf(&text, "%s: %s\n", key, strconv.Quote(merged[key]))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "log4j.properties"), []byte(Logging), 0o644)
}

// Logging is a configuration of Log4j: all goes to the standard output, which is a process's log file or a container's log.
const Logging = `rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.name=console
appender.console.type=CONSOLE
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %-5p %c{1} - %m%n
`

// zookeeperConfig is the file that FlinkZooKeeperQuorumPeer reads. The session timeouts that it grants are 2 to 20 ticks
// (milliseconds).
func zookeeperConfig(dir string, port int) string {
	return fmt.Sprintf(`tickTime=500
dataDir=%s
clientPort=%d
clientPortAddress=127.0.0.1
admin.enableServer=false
`, dir, port)
}
