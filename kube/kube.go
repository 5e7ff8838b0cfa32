// Package kube is what Holdfast asks of Kubernetes.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// askTimeout bounds one question to the API server. An API server whose packets are lost does not refuse: it is silent.
	askTimeout = 10 * time.Second
	// askAgain is the time between two questions for what is not there yet.
	askAgain = time.Second
)

// Config says how to speak to the API server: as the kubeconfig file says, or, without one, as a pod does with its own service
// account. Nothing is asked. userAgent names the program in the API server's audit log.
func Config(kubeconfig, userAgent string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("this is not a pod of a Kubernetes cluster: give --kubeconfig")
		}
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = userAgent
	return config, nil
}

// Client is a client for Config.
func Client(kubeconfig, userAgent string) (kubernetes.Interface, error) {
	config, err := Config(kubeconfig, userAgent)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// SiteUID is what tells this cluster from every other: the uid of its namespace kube-system, which lives as long as the cluster.
func SiteUID(ctx context.Context, c kubernetes.Interface) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ns, err := c.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("ask for the uid of namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

// ConfigMapKey is one key of a ConfigMap that is kept by the name of another part of Holdfast.
type ConfigMapKey struct{ Namespace, Name, Key string }

func (k ConfigMapKey) String() string {
	return fmt.Sprintf("key %s of ConfigMap %s/%s", k.Key, k.Namespace, k.Name)
}

// Read gives the value; "" if there is none yet.
func (k ConfigMapKey) Read(ctx context.Context, c kubernetes.Interface) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := c.CoreV1().ConfigMaps(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", k, err)
	}
	return m.Data[k.Key], nil
}

// Keep writes the value. The ConfigMap must be there: the chart renders it, without data, so that no right to make ConfigMaps
// is needed.
func (k ConfigMapKey) Keep(ctx context.Context, c kubernetes.Interface, value string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{k.Key: value}})
	if err != nil {
		return err
	}
	_, err = c.CoreV1().ConfigMaps(k.Namespace).Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("write %s: %w", k, err)
	}
	return nil
}

// Await asks until an answer comes, and logs what it waits for when the wait begins and each time its cause changes. The error is
// ctx's, with what was last in the way.
func Await(ctx context.Context, log *slog.Logger, what string, ask func(context.Context) (string, error)) (string, error) {
	told := ""
	for {
		value, err := ask(ctx)
		if err == nil && value != "" {
			if told != "" {
				log.Info("no longer waiting", "for", what)
			}
			return value, nil
		}
		cause := "it is not there yet"
		if err != nil {
			cause = err.Error()
		}
		if cause != told && ctx.Err() == nil {
			log.Warn("waiting", "for", what, "because", cause)
			told = cause
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s (%s): %w", what, told, context.Cause(ctx))
		case <-time.After(askAgain):
		}
	}
}

// FileOr gives what stands in a file, without white space around it, or else what ask answers, for which it waits. A file that a
// ConfigMap is mounted at can be read when the API server cannot be; the API server has what the kubelet has not brought yet.
func FileOr(ctx context.Context, log *slog.Logger, file, what string, ask func(context.Context) (string, error)) (string, error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if value := strings.TrimSpace(string(text)); value != "" {
			return value, nil
		}
	}
	return Await(ctx, log, what, ask)
}
