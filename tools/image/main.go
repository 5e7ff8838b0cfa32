// Command image makes Holdfast's container image: one layer for each program and one for the certificates of public
// authorities. It needs Go and nothing else: no engine, no base image. The same commit and the same Go give the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	root, version, name, out, push string
	platforms                      []platform
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&o.root, "root", ".", "the `folder` with the source")
	fs.StringVar(&o.version, "version", "", "the `version` that the programs say they are (default: what git describe says)")
	fs.StringVar(&o.name, "name", "holdfast:dev", "the `name` that the image has in the archive")
	fs.StringVar(&o.out, "out", "",
		"the archive's `file`: an image of this machine's architecture for ctr images import, docker load, podman load")
	fs.StringVar(&o.push, "push", "", "the `registry/name:tag` to push an image for all platforms to, with the credentials of docker login")
	platforms := fs.String("platforms", "linux/amd64,linux/arm64", "the `platforms` to push, with commas between them")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag: every option begins with --", fs.Arg(0))
	}
	if o.out == "" && o.push == "" {
		return o, errors.New("nothing to do: give --out or --push")
	}
	for text := range strings.SplitSeq(*platforms, ",") {
		p, err := parsePlatform(text)
		if err != nil {
			return o, err
		}
		o.platforms = append(o.platforms, p)
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	tag, err := name.NewTag(o.name)
	if err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	src, err := readSource(ctx, o.root, o.version)
	if err != nil {
		return err
	}
	images := images{source: src, made: map[platform]v1.Image{}, out: out}
	defer images.close()
	if o.out != "" {
		image, err := images.of(ctx, platform{"linux", runtime.GOARCH})
		if err != nil {
			return err
		}
		if err := writeArchive(o.out, tag, image); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		fmt.Fprintf(out, "%s is in %s\n", o.name, o.out)
	}
	if o.push != "" {
		return push(ctx, o, &images)
	}
	return nil
}

// push pushes an index with an image for each platform.
func push(ctx context.Context, o options, images *images) error {
	ref, err := name.ParseReference(o.push)
	if err != nil {
		return fmt.Errorf("--push: %w", err)
	}
	index, err := images.index(ctx, o.platforms)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(ref, index, remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push to %s, with the credentials that docker login or podman login left: %w", ref.Context(), err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(images.out, "pushed %s@%s\n", ref, digest)
	return nil
}
