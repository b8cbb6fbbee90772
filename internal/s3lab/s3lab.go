// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package s3lab runs real S3 servers on the loopback interface for tests.
package s3lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vmstream/vmstream/internal/testenv"
)

// Credentials of the servers; tests look for them where they must not be.
const (
	AccessKey = "LABACCESSKEY"
	SecretKey = "labSECRET0123456789abcdef"
	Region    = "us-east-1"
	KeyName   = "lab-key" // that MinIO encrypts with
)

const startTime = time.Minute

// Server is one that runs.
type Server struct {
	Name     string
	Endpoint string // host and port
	client   *minio.Client
}

// kind is how to run a server.
type kind struct {
	name, variable string
	args           func(address, console, dir string) []string
	env            []string
}

var (
	versity = kind{
		name: "versitygw", variable: "VMSTREAM_S3_VERSITYGW",
		args: func(address, _, dir string) []string {
			return []string{"--port", address, "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data")}
		},
		env: []string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey},
	}
	minIO = kind{
		name: "minio", variable: "VMSTREAM_S3_MINIO",
		args: func(address, console, dir string) []string {
			return []string{"server", "--address", address, "--console-address", console, filepath.Join(dir, "data")}
		},
		env: []string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_BROWSER=off", "MINIO_KMS_SECRET_KEY=" + KeyName + ":" + strings.Repeat("A", 43) + "="},
	}
)

// VersityGW runs a versitygw from $VMSTREAM_S3_VERSITYGW or bin/tools, or skips the
// test as [testenv.Tool] does. `make s3-server` builds it.
func VersityGW(tb testing.TB) *Server {
	tb.Helper()
	program := versity.find(tb)
	if program == "" {
		testenv.Missing(tb, "needs versitygw: make s3-server")
	}
	return versity.start(tb, program)
}

// MinIO runs a MinIO server from $VMSTREAM_S3_MINIO or bin/tools. It is never
// required: it takes long to build. `make s3-servers` does.
func MinIO(tb testing.TB) *Server {
	tb.Helper()
	program := minIO.find(tb)
	if program == "" {
		tb.Skip("needs minio: make s3-servers")
	}
	return minIO.start(tb, program)
}

// VersityGWPath returns where versitygw is, or an empty string.
func VersityGWPath(tb testing.TB) string { return versity.find(tb) }

// HasMinIO reports if there is a MinIO server to run.
func HasMinIO(tb testing.TB) bool { return minIO.find(tb) != "" }

// Each runs a test with each server as a subtest.
func Each(t *testing.T, f func(*testing.T, *Server)) {
	t.Helper()
	t.Run(versity.name, func(t *testing.T) { f(t, VersityGW(t)) })
	t.Run(minIO.name, func(t *testing.T) { f(t, MinIO(t)) })
}

// find returns the newest version that is there.
func (k kind) find(tb testing.TB) string {
	if p := os.Getenv(k.variable); p != "" {
		return p
	}
	all, err := filepath.Glob(filepath.Join(testenv.Root(tb), "bin", "tools", k.name+"-v*"))
	if err != nil || len(all) == 0 {
		return ""
	}
	return slices.Max(all)
}

func (k kind) start(tb testing.TB, program string) *Server {
	tb.Helper()
	dir := tb.TempDir()
	for _, d := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	s := &Server{Name: k.name, Endpoint: freeAddress(tb)}
	var output bytes.Buffer
	cmd := exec.Command(program, k.args(s.Endpoint, freeAddress(tb), dir)...)
	cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, k.env...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-gone
		}
	})
	s.connect(tb)
	if err := s.await(gone); err != nil {
		_ = cmd.Process.Kill()
		<-gone
		tb.Fatalf("%s: %v\n%s", k.name, err, output.String())
	}
	return s
}

func freeAddress(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *Server) connect(tb testing.TB) {
	var err error
	s.client, err = minio.New(s.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: Region, MaxRetries: 1,
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) await(gone <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		_, err := s.client.ListBuckets(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Client returns one of another make than that under test.
func (s *Server) Client() *minio.Client { return s.client }

// Bucket makes an empty bucket and returns its name. A locking one keeps versions and
// takes locks.
func (s *Server) Bucket(tb testing.TB, locking bool) string {
	tb.Helper()
	name := strings.ToLower(fmt.Sprintf("lab-%d", time.Now().UnixNano()))
	if err := s.client.MakeBucket(tb.Context(), name, minio.MakeBucketOptions{ObjectLocking: locking}); err != nil {
		tb.Fatal(err)
	}
	return name
}

// Login sets the environment that clients take the server's credentials from.
func Login(tb testing.TB) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey, "AWS_SESSION_TOKEN": "",
		"AWS_REGION": Region, "AWS_PROFILE": "", "AWS_CA_BUNDLE": "", "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		tb.Setenv(name, value)
	}
}
