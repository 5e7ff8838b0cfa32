package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/holdfast-dev/holdfast/job"
)

// Config is an answer of /config.
type Config struct {
	// Version is Flink's own, such as "1.20.1"; Revision its commit.
	Version, Revision string
	// History says that this is a history server, whose jobs are all over, and not a JobManager.
	History bool
}

// Config asks /config and so proves that this is Flink: whatever answers without a flink-version, or with an error that is
// not written as Flink writes errors, is Malformed. Like every question it needs a leader (LeaderRetrievalHandler.java).
func (c *Client) Config(ctx context.Context) (Config, error) {
	var config Config
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/config",
		read: func(a *answer) (err error) { config, err = readConfig(a); return err },
	})
	var f *failure
	if errors.As(err, &f) && f.reach == job.Erred && errors.Is(err, errForeign) {
		err = &failure{reach: job.Malformed, question: f.question, err: fmt.Errorf("%w; is this Flink's REST port?", f.err)}
	}
	if err != nil {
		return Config{}, err
	}
	return config, nil
}

// readConfig reads DashboardConfiguration.java.
func readConfig(a *answer) (Config, error) {
	var config Config
	err := a.object(func(key string) error {
		switch key {
		case "flink-version":
			return a.decode(&config.Version)
		case "flink-revision":
			return a.decode(&config.Revision)
		case "features":
			var features struct {
				History bool `json:"web-history"`
			}
			err := a.decode(&features)
			config.History = features.History
			return err
		}
		return a.skip()
	})
	if err == nil && config.Version == "" {
		err = errors.New("no flink-version")
	}
	config.Version, config.Revision = clean(config.Version, 64), clean(config.Revision, 128)
	return config, err
}

// JobManager is what a JobManager process says of its own configuration.
type JobManager struct {
	// Incarnation is one life of the process: the UUID at the end of web.tmpdir, which each process draws anew
	// (ClusterEntrypoint.java). "" if it cannot be found.
	Incarnation string
	// ClusterID is kubernetes.cluster-id.
	ClusterID string
	// HighAvailability is Yes for any high-availability.type (before 1.17: high-availability) but NONE. The list has
	// what is configured, so a complete one without either key is No, Flink's default; only a list that also gives
	// an Incarnation counts as complete. Else Unanswered.
	HighAvailability job.Answer
	// Application says whether the process runs one application: the entry points of application mode set execution.target to embedded
	// (ApplicationClusterEntryPoint.java). A complete list without that is No: whoever runs no application takes jobs. Else Unanswered.
	Application job.Answer
	// ArchiveDir is jobmanager.archive.fs.dir, a URI or a path; "" if ended jobs are not archived.
	ArchiveDir string
	// RESTPort is rest.port, and BindPort rest.bind-port, which decides where Flink listens if it is set, and may be a
	// list or a range.
	RESTPort, BindPort string
	// Address is jobmanager.rpc.address: the pod's IP with high availability on Kubernetes.
	Address string
	// HistoryServer says that a history server is configured (historyserver.archive.fs.dir), so that somebody else may
	// be reading the archive.
	HistoryServer bool
}

// JobManager asks /jobmanager/config, which a standby too answers about itself. All but the keys above, secrets among
// them, are forgotten while they are read.
func (c *Client) JobManager(ctx context.Context) (JobManager, error) {
	var jm JobManager
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/jobmanager/config",
		read: func(a *answer) (err error) { jm, err = readJobManager(a); return err },
	})
	if err != nil {
		return JobManager{}, err
	}
	return jm, nil
}

// readJobManager reads the list of ConfigurationInfo.java.
func readJobManager(a *answer) (JobManager, error) {
	var (
		jm            JobManager
		ha, oldHA     string
		target        string
		hasHA, hasOld bool
		damaged       bool
		pair          struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		}
	)
	const limit = 1024
	err := a.array(func() error {
		pair.Key, pair.Value = "", ""
		err := a.decode(&pair)
		var mistyped *json.UnmarshalTypeError
		if errors.As(err, &mistyped) {
			damaged = true // it may have been about high availability
			return nil
		}
		if err != nil {
			return err
		}
		switch pair.Key {
		case "web.tmpdir":
			jm.Incarnation = incarnation(pair.Value)
		case "kubernetes.cluster-id":
			jm.ClusterID = clean(pair.Value, limit)
		case "high-availability.type":
			ha, hasHA = pair.Value, true
		case "high-availability":
			oldHA, hasOld = pair.Value, true
		case "execution.target":
			target = pair.Value
		case "jobmanager.archive.fs.dir":
			jm.ArchiveDir = clean(pair.Value, limit)
		case "rest.port":
			jm.RESTPort = clean(pair.Value, limit)
		case "rest.bind-port":
			jm.BindPort = clean(pair.Value, limit)
		case "jobmanager.rpc.address":
			jm.Address = clean(pair.Value, limit)
		case "historyserver.archive.fs.dir":
			jm.HistoryServer = pair.Value != ""
		}
		return nil
	})
	if err != nil {
		return JobManager{}, err
	}
	switch {
	case hasHA:
	case hasOld:
		ha = oldHA
	case jm.Incarnation != "" && !damaged:
		ha = "NONE"
	}
	switch {
	case ha == "":
	case !strings.EqualFold(ha, "NONE"):
		jm.HighAvailability = job.Yes
	case jm.Incarnation != "":
		jm.HighAvailability = job.No
	}
	switch {
	case target == "embedded":
		jm.Application = job.Yes
	case jm.Incarnation != "" && !damaged:
		jm.Application = job.No
	}
	return jm, nil
}

// incarnation finds the UUID in …/flink-web-2f1cb0c1-7a52-4a4b-9cf5-6b0a2f6a6c8e.
func incarnation(dir string) string {
	const before, size = "flink-web-", 36
	i := strings.LastIndex(dir, before)
	if i < 0 || len(dir) < i+len(before)+size {
		return ""
	}
	id := dir[i+len(before):][:size]
	for i := range len(id) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := '0' <= id[i] && id[i] <= '9' || 'a' <= id[i] && id[i] <= 'f'
		if dash != (id[i] == '-') || !dash && !hex {
			return ""
		}
	}
	return id
}
