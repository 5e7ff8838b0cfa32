// Podtool is what small test pods run, in an image of nothing else: it waits, serves, or asks.
//
//	podtool                 wait for SIGTERM (the pause container of every pod, too)
//	podtool serve ADDRESS   answer each HTTP request with the pod's name
//	podtool get URL         print the answer
//	podtool write FILE      write a file, which fails where that is not allowed
//	podtool hold ADDRESS    connect, and send a byte each 50 ms until the connection breaks
//	podtool exit CODE
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	switch {
	case len(args) == 0:
		return 0, wait()
	case len(args) == 2 && args[0] == "serve":
		return 0, serve(args[1])
	case len(args) == 2 && args[0] == "get":
		return 0, get(args[1])
	case len(args) == 2 && args[0] == "hold":
		return 0, hold(args[1])
	case len(args) == 2 && args[0] == "write":
		return 0, os.WriteFile(args[1], []byte("written\n"), 0o644)
	case len(args) == 2 && args[0] == "exit":
		return strconv.Atoi(args[1])
	}
	return 0, fmt.Errorf("not understood: %q", args)
}

// wait waits for the end. As the first process of a pod that shares its process namespace it must reap, too.
func wait() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return nil
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

func serve(address string) error {
	ended := make(chan error, 1)
	go func() {
		ended <- http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			name, err := os.Hostname()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			io.WriteString(w, name+"\n")
		}))
	}()
	go func() { ended <- wait() }()
	return <-ended
}

func hold(address string) error {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	for err == nil {
		time.Sleep(50 * time.Millisecond)
		_, err = conn.Write([]byte{'.'})
	}
	return err
}

func get(url string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %s", response.Status)
	}
	return nil
}
