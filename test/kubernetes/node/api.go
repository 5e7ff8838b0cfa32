package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A question is bounded and asked again: while it starts, the API server takes connections and does not always answer.
const questionTimeout = 5 * time.Second

// api is the little that booting a cluster has to say to its API server. Tests have better clients.
type api struct {
	server string
	client *http.Client
}

func newAPI(server string, config *tls.Config) *api {
	// Connections are not kept: the API server is killed and started again.
	return &api{server, &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}}
}

func (n *Node) api() (*api, error) {
	config, err := clientTLS(n.path("pki"), "admin")
	if err != nil {
		return nil, err
	}
	return newAPI(n.apiServer(), config), nil
}

// errNotThere is the API server's word that there is no such thing; errThereAlready, that there is.
var (
	errNotThere     = errors.New("not found")
	errThereAlready = errors.New("exists already")
)

// do asks, and decodes the answer into answer unless that is nil.
func (a *api) do(ctx context.Context, method, path string, body, answer any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, errNotThere)
	case response.StatusCode == http.StatusConflict:
		return fmt.Errorf("%s %s: %w", method, path, errThereAlready)
	case response.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: HTTP %s: %s", method, path, response.Status, text)
	case answer != nil:
		return json.Unmarshal(text, answer)
	}
	return nil
}

// create makes an object if there is none of its name.
func (a *api) create(ctx context.Context, path string, object any) error {
	if err := a.do(ctx, http.MethodPost, path, object, nil); !errors.Is(err, errThereAlready) {
		return err
	}
	return nil
}

func (a *api) remove(ctx context.Context, path string) error {
	if err := a.do(ctx, http.MethodDelete, path, nil, nil); !errors.Is(err, errNotThere) {
		return err
	}
	return nil
}

func (a *api) ready(ctx context.Context) error { return a.do(ctx, http.MethodGet, "/readyz", nil, nil) }

func (a *api) exists(path string) func(context.Context) error {
	return func(ctx context.Context) error { return a.do(ctx, http.MethodGet, path, nil, nil) }
}

func (a *api) nodeReady(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		var node struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := a.do(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &node); err != nil {
			return err
		}
		message := "it has said nothing yet"
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" {
				if condition.Status == "True" {
					return nil
				}
				message = condition.Message
			}
		}
		return fmt.Errorf("node %s is not Ready: %s", name, message)
	}
}

// answers asks whether somebody answers at a URL.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: HTTP %s", url, response.Status)
		}
		return nil
	}
}
