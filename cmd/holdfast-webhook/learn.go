package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/kube"
	"github.com/holdfast-dev/holdfast/webhook"
)

const (
	// etcdCAKey is the key in the ConfigMap of --etcd-ca-configmap.
	etcdCAKey = "ca.crt"
	// learnAgain is how often what was learnt is asked for again: API servers are upgraded, and authorities are replaced.
	learnAgain = 5 * time.Minute
	// askTimeout bounds one question to the API server.
	askTimeout = 10 * time.Second
)

// learner completes the settings with what only the cluster knows: whose site it is, etcd's authority, and how new the API server is.
type learner struct {
	client   kubernetes.Interface
	log      *slog.Logger
	settings webhook.Settings

	etcdCA    string
	configMap kube.ConfigMapKey

	mu   sync.Mutex
	want error
}

func newLearner(o options, client kubernetes.Interface, log *slog.Logger) *learner {
	return &learner{
		client: client, log: log, settings: o.settings, etcdCA: o.etcdCA,
		configMap: kube.ConfigMapKey{Namespace: o.namespace, Name: o.etcdCAConfigMap, Key: etcdCAKey},
		want:      errors.New("nothing has been asked for yet"),
	}
}

// missing says what is waited for; nil when all is known.
func (l *learner) missing() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.want
}

func (l *learner) wants(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = err
}

// run waits for what is missing, hands the settings on, and again whenever they change, until ctx ends.
func (l *learner) run(ctx context.Context, set func(webhook.Settings)) {
	if l.learn(ctx) != nil {
		return // ctx ended
	}
	for {
		l.log.Info("settings are complete", "site", l.settings.Site, "uid", l.settings.SiteUID, "native-sidecars", l.settings.NativeSidecars,
			"etcd", l.settings.EtcdEndpoints, "etcd-ca", len(l.settings.EtcdCA))
		set(l.settings)
		l.wants(nil)
		for before := l.settings; reflect.DeepEqual(before, l.settings); {
			select {
			case <-ctx.Done():
				return
			case <-time.After(learnAgain):
				l.refresh(ctx)
			}
		}
	}
}

// learn waits until everything is known. The error is ctx's.
func (l *learner) learn(ctx context.Context) (err error) {
	if l.settings.SiteUID == "" {
		if l.settings.SiteUID, err = l.await(ctx, "the uid of namespace kube-system", l.askUID); err != nil {
			return err
		}
	}
	if l.etcdCA != "" || l.configMap.Name != "" {
		if l.settings.EtcdCA, err = l.await(ctx, l.authority(), l.askAuthority); err != nil {
			return err
		}
	}
	native, err := l.await(ctx, "the API server's version", l.askNative)
	l.settings.NativeSidecars = native == "true"
	return err
}

// refresh asks again for what may have changed. What cannot be asked for stays as it was.
func (l *learner) refresh(ctx context.Context) {
	if native, err := l.askNative(ctx); err == nil {
		l.settings.NativeSidecars = native == "true"
	}
	if l.settings.EtcdCA == "" {
		return
	}
	if pem, err := l.askAuthority(ctx); err == nil && pem != "" {
		l.settings.EtcdCA = pem
	}
}

// await waits for an answer, and lets readiness say for what.
func (l *learner) await(ctx context.Context, what string, ask func(context.Context) (string, error)) (string, error) {
	return kube.Await(ctx, l.log, what, func(ctx context.Context) (string, error) {
		value, err := ask(ctx)
		switch {
		case err != nil:
			l.wants(fmt.Errorf("waiting for %s: %w", what, err))
		case value == "":
			l.wants(fmt.Errorf("waiting for %s: it is not there yet", what))
		}
		return value, err
	})
}

func (l *learner) askUID(ctx context.Context) (string, error) { return kube.SiteUID(ctx, l.client) }

// authority names where etcd's authority is looked for.
func (l *learner) authority() string {
	switch {
	case l.configMap.Name == "":
		return "file " + l.etcdCA
	case l.etcdCA == "":
		return l.configMap.String() + ", which holdfast-etcd writes"
	}
	return "file " + l.etcdCA + ", or " + l.configMap.String()
}

// askAuthority reads the certificates that agents check etcd's against: from the file, or else from the ConfigMap. Nothing that they
// could not use is an answer.
func (l *learner) askAuthority(ctx context.Context) (pem string, err error) {
	if l.etcdCA != "" {
		text, err := os.ReadFile(l.etcdCA)
		if err != nil && (l.configMap.Name == "" || !errors.Is(err, os.ErrNotExist)) {
			return "", err
		}
		pem = strings.TrimSpace(string(text))
	}
	if pem == "" && l.configMap.Name != "" {
		if pem, err = l.configMap.Read(ctx, l.client); err != nil {
			return "", err
		}
	}
	if pem == "" {
		return "", nil
	}
	try := l.settings
	try.EtcdCA = pem
	return pem, try.Validate()
}

// askNative says whether the API server has native sidecars, as true or false.
func (l *learner) askNative(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := l.client.Discovery().ServerVersionWithContext(ctx)
	if err != nil {
		return "", fmt.Errorf("ask for the API server's version: %w", err)
	}
	has, err := webhook.HasNativeSidecars(info.GitVersion)
	if err != nil {
		return "", fmt.Errorf("the API server's version: %w", err)
	}
	return fmt.Sprint(has), nil
}
