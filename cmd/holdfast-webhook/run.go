package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/breaker"
	"github.com/holdfast-dev/holdfast/webhook/limits"
	"github.com/holdfast-dev/holdfast/webhook/server"
)

// drain is how long requests that have been taken may go on at the end. None takes longer than the API server waits.
const drain = 6 * time.Second

// errLeaving is why a replica that was told to end is not ready.
var errLeaving = errors.New("this replica was told to end")

// runner works until its context ends.
type runner interface {
	Run(context.Context) error
}

// run serves until ctx ends, and then for as long as others may not know of it.
func run(ctx context.Context, o options, client kubernetes.Interface, version string, log *slog.Logger) error {
	o.settings.Version = version
	registry := prometheus.NewRegistry()
	certificates, err := o.certificates(client, log)
	if err != nil {
		return flags.Usage(err)
	}
	fuse, err := breaker.New(breaker.Options{
		Client: client, Namespaces: o.namespaces, Selector: webhook.LabelInjected + "=true",
		Agent: breaker.Identity{Container: webhook.ContainerName, Image: o.settings.Image, PullPolicy: o.settings.PullPolicy},
		First: o.breakerPause, Replica: o.podName, Registry: registry, Log: log,
	})
	if err != nil {
		return err
	}
	allowed := limits.New(client, o.namespaces, log)
	s, err := server.New(server.Options{
		Certificates: certificates, Breaker: fuse, ConfigMaps: configMaps(client), Limits: allowed.Of, Registry: registry, Version: version,
		Log: log,
	})
	if err != nil {
		return err
	}
	learner := newLearner(o, client, log)
	var leaving atomic.Bool
	health := server.NewHealth(registry, log, []server.Check{
		{Name: "certificate", Ask: certificates.Ready},
		{Name: "settings", Ask: learner.missing},
		{Name: "shutdown", Ask: func() error {
			if leaving.Load() {
				return errLeaving
			}
			return nil
		}},
	}, []server.Note{{Name: "breaker", Tell: func() string { return fuse.Status().String() }}})

	reviews, err := server.Listen(o.listen, "--listen")
	if err != nil {
		return err
	}
	plain, err := server.Listen(o.metricsListen, "--metrics-listen")
	if err != nil {
		reviews.Close()
		return err
	}
	log.Info("serving", "address", reviews.Addr(), "health", plain.Addr(), "version", version, "host", o.host(), "image", o.settings.Image)

	// What serves and what it needs go on while ctx's end is made known.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var all sync.WaitGroup
	all.Go(func() { failWith(fail, s.Serve(reviews)) })
	all.Go(func() { failWith(fail, health.Serve(plain)) })
	all.Go(func() { failWith(fail, certificates.Run(work)) })
	all.Go(func() { fuse.Run(work) })
	all.Go(func() { allowed.Run(work) })
	all.Go(func() { learner.run(work, s.Set) })

	<-ctx.Done()
	leaving.Store(true)
	s.Leave()
	err = context.Cause(ctx)
	if failed := !errors.Is(err, context.Canceled); failed {
		log.Error("ending", "error", err)
	} else {
		err = nil
		log.Info("ending: not ready any more, and serving on until nobody sends anything", "for", o.shutdownDelay.String())
		time.Sleep(o.shutdownDelay)
	}
	bounded, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if late := s.Close(bounded); late != nil {
		log.Warn("not every request was answered", "error", late)
	}
	end()
	_ = health.Close(bounded) // whoever asks how a replica is that ends need not be answered
	all.Wait()
	log.Info("ended")
	return err
}

func failWith(fail context.CancelCauseFunc, err error) {
	if err != nil {
		fail(err)
	}
}

// configMaps reads ConfigMaps for decisions.
func configMaps(client kubernetes.Interface) server.ConfigMaps {
	return func(ctx context.Context, namespace, name string) (map[string]string, error) {
		m, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}
}
