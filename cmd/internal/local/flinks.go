package local

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/record"
)

// Flink is one JobManager.
type Flink struct {
	// Name is the cluster's name in keys, in the API and on the command line.
	Name string
	URL  string
}

func (f Flink) client() (*flink.Client, error) { return flink.Dial(f.URL, flink.Options{}) }

// ParseFlink reads [NAME=]URL. Without a name the cluster is called after the URL's host, port and path.
func ParseFlink(text string) Flink {
	name, address, named := strings.Cut(text, "=")
	if !named || strings.Contains(name, "://") {
		return Flink{Name: nameOf(text), URL: text}
	}
	return Flink{Name: name, URL: address}
}

// nameOf makes a name of a URL: localhost-8081 of http://localhost:8081. It is "" if the URL has no host.
func nameOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	name := strings.Map(func(r rune) rune {
		if record.CheckSegment("name", "x"+string(r)) != nil {
			return '-'
		}
		return r
	}, u.Hostname()+"-"+port+strings.TrimRight(u.Path, "/"))
	return strings.Trim(name, "-.")
}

// checkFlinks says all that is wrong with the JobManagers.
func checkFlinks(flinks []Flink) error {
	if len(flinks) == 0 {
		return errors.New("no --flink: give at least one JobManager, such as --flink orders=http://localhost:8081")
	}
	var wrong []error
	names, urls := map[string]string{}, map[string]string{}
	for _, f := range flinks {
		client, err := f.client()
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--flink: %w", err))
			continue
		}
		address := client.Address()
		client.Close()
		if err := f.checkName(); err != nil {
			wrong = append(wrong, err)
			continue
		}
		if other, taken := names[f.Name]; taken {
			wrong = append(wrong, fmt.Errorf("--flink: %s and %s are both called %q: give each a NAME= of its own", other, address, f.Name))
			continue
		}
		if other, taken := urls[address]; taken {
			wrong = append(wrong, fmt.Errorf("--flink: %q and %q are the same JobManager, %s: give it once", other, f.Name, address))
			continue
		}
		names[f.Name], urls[address] = address, f.Name
	}
	return errors.Join(wrong...)
}

// checkName makes sure that the name, and the pod's that is made of it, can be part of a key.
func (f Flink) checkName() error {
	if err := record.CheckSegment("the NAME of "+strconv.Quote(f.URL), f.Name); err != nil {
		return fmt.Errorf("--flink: %w; give one before the URL, such as orders=http://localhost:8081", err)
	}
	if err := record.CheckSegment("the pod's name that is made of the NAME", podOf(f.Name)); err != nil {
		return fmt.Errorf("--flink: %w", err)
	}
	return nil
}

// checkAddress finds what can never be listened on.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen %q: give a host and a port, such as 127.0.0.1:7070", address)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("--listen %q: the port must be a number from 0 (a free one) to 65535", address)
	}
	return nil
}
