package flinkproc

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// oldestJava is the oldest that Flink 1.19 to 2.3 and the compiler option --release 11 work with.
const oldestJava = 11

// The package that has both java and javac, newest first of those that every supported Flink is known to run with.
var javaPackages = []string{"openjdk-17-jdk-headless", "default-jdk-headless"}

// JobClass is the main class of the job.
const JobClass = "ControlledJob"

//go:embed job/ControlledJob.java
var jobSource []byte

// findJava gives a java command that is new enough, and installs one if it may.
func findJava(ctx context.Context, tell machine.Teller) (string, error) {
	java, err := lookForJava(ctx)
	if err == nil {
		return java, nil
	}
	if err := installJDK(ctx, tell, err); err != nil {
		return "", err
	}
	return lookForJava(ctx)
}

// lookForJava looks where people put their Java. The error says what was found and why it will not do.
func lookForJava(ctx context.Context) (string, error) {
	var problems []error
	for _, java := range javaCommands("java") {
		printed, err := machine.Run(ctx, nil, java, "-XshowSettings:properties", "-version")
		if err != nil {
			problems = append(problems, err)
			continue
		}
		version, err := javaVersion(printed)
		if err == nil && version < oldestJava {
			err = fmt.Errorf("%s is Java %d", java, version)
		}
		if err == nil {
			return java, nil
		}
		problems = append(problems, err)
	}
	if problems == nil {
		return "", errors.New("there is no java in JAVA_HOME or on the PATH")
	}
	return "", errors.Join(problems...)
}

// javaCommands gives the places where a command of the JDK is: JAVA_HOME, then the PATH.
func javaCommands(name string) (found []string) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		inHome := filepath.Join(home, "bin", name)
		if _, err := os.Stat(inHome); err == nil {
			found = append(found, inHome)
		}
	}
	if onPath, err := exec.LookPath(name); err == nil {
		found = append(found, onPath)
	}
	return found
}

// "1.8" was the last specification with a leading 1.
var specification = regexp.MustCompile(`java\.specification\.version = (?:1\.)?([0-9]+)`)

// javaVersion reads what java -XshowSettings:properties prints.
func javaVersion(printed string) (int, error) {
	match := specification.FindStringSubmatch(printed)
	if match == nil {
		return 0, fmt.Errorf("java does not tell its version: %s", machine.LastLines(printed, 5))
	}
	return strconv.Atoi(match[1])
}

// installJDK installs Java with its compiler, because of the given lack.
func installJDK(ctx context.Context, tell machine.Teller, lack error) error {
	var err error
	for _, name := range javaPackages {
		if err = machine.Install(ctx, tell, name); err == nil {
			return nil
		}
		if errors.Is(err, machine.ErrCannotInstall) {
			return fmt.Errorf("a JDK, version %d or newer, is needed (%w): install one (%s on Debian and Ubuntu) and have java and javac on the PATH, or JAVA_HOME point to it",
				oldestJava, lack, javaPackages[0])
		}
	}
	return err
}

// compileJob compiles the job against the jars in lib, once for each source, and gives its jar. The caller holds the
// version's lock.
func compileJob(ctx context.Context, java, lib, home string, tell machine.Teller) (string, error) {
	sum := sha256.Sum256(jobSource)
	jar := filepath.Join(home, "job-"+hex.EncodeToString(sum[:6])+".jar")
	if _, err := os.Stat(jar); !errors.Is(err, fs.ErrNotExist) {
		return jar, err
	}
	javac, err := findCompiler(ctx, java, tell)
	if err != nil {
		return "", err
	}
	tell.Sayf("compiling the job")
	dir, err := os.MkdirTemp(home, "job-*.partial")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	source, classes := filepath.Join(dir, JobClass+".java"), filepath.Join(dir, "classes")
	if err := os.WriteFile(source, jobSource, 0o644); err != nil {
		return "", err
	}
	_, err = machine.Run(ctx, nil, javac, "-nowarn", "-proc:none", "-cp", filepath.Join(lib, "*"), "--release", strconv.Itoa(oldestJava),
		"-d", classes, source)
	if err != nil {
		return "", err
	}
	content, err := zipFolder(classes)
	if err != nil {
		return "", err
	}
	finished := filepath.Join(dir, "job.jar")
	if err := machine.WriteSynced(finished, bytes.NewReader(content)); err != nil {
		return "", err
	}
	return jar, os.Rename(finished, jar)
}

// findCompiler gives a javac, by preference the one beside java, and installs one if it may: a mere runtime has none,
// and cannot run source files either.
func findCompiler(ctx context.Context, java string, tell machine.Teller) (string, error) {
	look := func() string {
		if real, err := filepath.EvalSymlinks(java); err == nil {
			beside := filepath.Join(filepath.Dir(real), "javac")
			if _, err := os.Stat(beside); err == nil {
				return beside
			}
		}
		for _, javac := range javaCommands("javac") {
			return javac
		}
		return ""
	}
	if javac := look(); javac != "" {
		return javac, nil
	}
	if err := installJDK(ctx, tell, errors.New(java+" comes without javac")); err != nil {
		return "", err
	}
	if javac := look(); javac != "" {
		return javac, nil
	}
	return "", errors.New("the JDK is installed, but javac is neither in JAVA_HOME nor on the PATH")
}

// zipFolder makes a jar of a folder, which is nothing but a zip file.
func zipFolder(dir string) ([]byte, error) {
	var jar bytes.Buffer
	writer := zip.NewWriter(&jar)
	if err := writer.AddFS(os.DirFS(dir)); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return jar.Bytes(), nil
}
