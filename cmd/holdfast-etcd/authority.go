package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/kube"
	"github.com/holdfast-dev/holdfast/pki"
)

const (
	// authorityLife is long: agents carry the authority's certificate in their pods, and pods of Flink live for months.
	authorityLife = 20 * 365 * 24 * time.Hour
	askTimeout    = 10 * time.Second
	askAgain      = time.Second
)

// Keys in the Secret and, the first one, in the ConfigMap.
const (
	certificateKey = "ca.crt"
	privateKey     = "ca.key"
	begunKey       = "begun"
)

// vault is the Secret that members share: their authority, and whether their cluster has begun. The chart renders it without data, so that
// nobody needs the right to make Secrets.
type vault struct {
	client            kubernetes.Interface
	namespace, secret string
	configMap         string
	log               *slog.Logger
}

// open waits for the authority, makes it where there is none yet, and publishes its certificate.
func (v *vault) open(ctx context.Context) (authority *pki.Authority, begun bool, err error) {
	told := ""
	for {
		authority, begun, err = v.try(ctx)
		var damaged *damagedError
		if err == nil || errors.As(err, &damaged) {
			return authority, begun, err
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			v.log.Warn("waiting for the certificate authority", "error", err)
			told = text
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

func (v *vault) try(ctx context.Context) (*pki.Authority, bool, error) {
	secret, err := v.read(ctx)
	if err != nil {
		return nil, false, err
	}
	authority, err := v.authority(ctx, secret)
	if err != nil {
		return nil, false, err
	}
	key := kube.ConfigMapKey{Namespace: v.namespace, Name: v.configMap, Key: certificateKey}
	text := string(pki.EncodeCertificates(authority.Certificate()))
	if there, err := key.Read(ctx, v.client); err != nil {
		return nil, false, err
	} else if there != text {
		if err := key.Keep(ctx, v.client, text); err != nil {
			return nil, false, err
		}
	}
	return authority, len(secret.Data[begunKey]) > 0, nil
}

// damagedError is about what waiting cannot mend.
type damagedError struct{ error }

// authority reads the authority or, where the Secret has none, makes it. Whoever is second takes what the first one made: the API server
// refuses an update of what has changed meanwhile.
func (v *vault) authority(ctx context.Context, secret *corev1.Secret) (*pki.Authority, error) {
	certificate, key := secret.Data[certificateKey], secret.Data[privateKey]
	if len(certificate) > 0 || len(key) > 0 {
		authority, err := pki.ParseAuthority(certificate, key)
		if err == nil {
			err = pki.ValidAt(authority.Certificate(), time.Now())
		}
		if err != nil {
			return nil, &damagedError{fmt.Errorf("the authority in Secret %s/%s: %w; restore it from a copy, or remove its keys %s and %s: agents of pods that run now then "+
				"reach etcd only after their pods are created anew", v.namespace, v.secret, err, certificateKey, privateKey)}
		}
		return authority, nil
	}
	authority, err := pki.NewAuthority("authority of "+v.secret, time.Now(), authorityLife)
	if err != nil {
		return nil, err
	}
	certificate, key, err = authority.Encode()
	if err != nil {
		return nil, err
	}
	if err := v.write(ctx, secret, map[string][]byte{certificateKey: certificate, privateKey: key}); err != nil {
		return nil, err
	}
	v.log.Info("made the certificate authority", "secret", v.secret)
	return authority, nil
}

// begin notes that the cluster has data.
func (v *vault) begin(ctx context.Context) error {
	secret, err := v.read(ctx)
	if err != nil || len(secret.Data[begunKey]) > 0 {
		return err
	}
	err = v.write(ctx, secret, map[string][]byte{begunKey: []byte(time.Now().UTC().Format(time.RFC3339))})
	if apierrors.IsConflict(err) {
		return nil // another member was faster, or the next life of this one will do it
	}
	return err
}

func (v *vault) read(ctx context.Context) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	secret, err := v.client.CoreV1().Secrets(v.namespace).Get(ctx, v.secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Secret %s/%s: the chart makes it, without data; was it deleted?", v.namespace, v.secret)
	}
	return secret, err
}

func (v *vault) write(ctx context.Context, secret *corev1.Secret, data map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	secret = secret.DeepCopy()
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	maps.Copy(secret.Data, data)
	_, err := v.client.CoreV1().Secrets(v.namespace).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}
