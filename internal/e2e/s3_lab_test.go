// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/internal/s3lab"
)

// s3Lab is a VM, a bucket of a real server, and a proxy before it that counts.
type s3Lab struct {
	t       *testing.T
	server  *s3lab.Server
	bucket  string
	machine *machine
	dir     string
	meter   *meter
	said    []string // by the program
}

func newS3Lab(t *testing.T, server *s3lab.Server, dataBytes int64) *s3Lab {
	t.Helper()
	dir := openDir(t)
	proxy := s3lab.NewProxy(t, server)
	l := &s3Lab{
		t: t, server: server, bucket: server.Bucket(t, false), dir: dir,
		machine: newMachineOf(t, dir, "web01", dataBytes), meter: newMeter(proxy),
	}
	s3lab.Login(t)
	t.Setenv("VMSTREAM_S3_ENDPOINT", "http://"+proxy.Address)
	t.Setenv("HOME", dir)
	return l
}

func (l *s3Lab) target(key, options string) string {
	return "s3://" + l.bucket + "/" + key + "?part-size=5M&parallel=3&" + options
}

// run runs the program, which must succeed, and returns what it prints.
func (l *s3Lab) run(args ...string) string {
	l.t.Helper()
	out := good(l.t, append([]string{program(l.t)}, args...)...)
	l.said = append(l.said, out)
	return out
}

// command returns the program with what it says.
func (l *s3Lab) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	var said bytes.Buffer
	c := exec.Command(program(l.t), args...)
	c.Stdout, c.Stderr = &said, &said
	c.WaitDelay = 5 * time.Second
	return c, &said
}

// object returns the digest of what the server has, told by another client.
func (l *s3Lab) object(key string) [32]byte {
	l.t.Helper()
	o, err := l.server.Client().GetObject(l.t.Context(), l.bucket, key, minio.GetObjectOptions{})
	must(l.t, err)
	defer o.Close()
	return sumOf(l.t, o)
}

func (l *s3Lab) there(key string) bool {
	l.t.Helper()
	_, err := l.server.Client().StatObject(l.t.Context(), l.bucket, key, minio.StatObjectOptions{})
	if err != nil && minio.ToErrorResponse(err).StatusCode != http.StatusNotFound {
		l.t.Fatal(err)
	}
	return err == nil
}

// uploads returns how many are not complete.
func (l *s3Lab) uploads() int {
	l.t.Helper()
	core := minio.Core{Client: l.server.Client()}
	page, err := core.ListMultipartUploads(l.t.Context(), l.bucket, "", "", "", "", 1000)
	must(l.t, err)
	return len(page.Uploads)
}

// restored restores targets and returns where to.
func (l *s3Lab) restored(name string, targets ...string) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, name)
	must(l.t, os.Mkdir(dir, 0o755))
	args := []string{"-q", "restore", "-C", dir}
	for _, target := range targets {
		args = append(args, "--from", target)
	}
	l.run(args...)
	return dir
}

// hasNoSecrets looks at all that the program has said.
func (l *s3Lab) hasNoSecrets() {
	l.t.Helper()
	for _, text := range l.said {
		for _, secret := range []string{s3lab.SecretKey, s3lab.AccessKey, "Signature="} {
			if strings.Contains(text, secret) {
				l.t.Errorf("%q is in %s", secret, text)
			}
		}
	}
}

// meter counts what passes a proxy, and stops it at a point: from there on nothing
// more of parts comes through.
type meter struct {
	mu     sync.Mutex
	parts  map[string]int64 // bytes of those that the server has, by number
	moving int64            // bytes of parts that are on their way
	times  int              // that the server took a part
	down   int64            // bytes of objects that were sent to the program

	point   int64         // bytes of parts; 0: none
	reached chan struct{} // is closed there
	let     chan struct{} // is closed when it may go on
}

func newMeter(p *s3lab.Proxy) *meter {
	m := &meter{parts: map[string]int64{}}
	p.Before = func(kind string, _ int, _ http.ResponseWriter, r *http.Request) bool {
		if kind == "part" {
			r.Body = &measured{ReadCloser: r.Body, meter: m}
		}
		return false
	}
	p.After = func(kind string, _ int, resp *http.Response) error {
		if kind == "part" && resp.StatusCode == http.StatusOK {
			m.taken(resp.Request)
		}
		if kind == "get" && resp.StatusCode/100 == 2 {
			resp.Body = &counted{ReadCloser: resp.Body, meter: m}
		}
		return nil
	}
	return m
}

func (m *meter) taken(r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times++
	m.parts[r.URL.Query().Get("partNumber")] = r.ContentLength
}

func (m *meter) numbers() (parts, times int, down int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.parts), m.times, m.down
}

// stopAt has the proxy stop when so many bytes of parts have come, and returns what is
// closed then. What stood still before fails.
func (m *meter) stopAt(point int64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.let != nil {
		close(m.let)
	}
	m.point, m.reached, m.let = point, make(chan struct{}), make(chan struct{})
	return m.reached
}

// goOn lets everything through.
func (m *meter) goOn() { m.stopAt(0) }

// pass notes n bytes, and returns what to wait for if they are too many.
func (m *meter) pass(n int64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moving += n
	if m.point == 0 {
		return nil
	}
	sum := m.moving
	for _, size := range m.parts {
		sum += size
	}
	if sum < m.point {
		return nil
	}
	select {
	case <-m.reached:
	default:
		close(m.reached)
	}
	return m.let
}

// measured is the content of a part.
type measured struct {
	io.ReadCloser
	meter *meter
	bytes int64
	once  sync.Once
}

func (b *measured) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 64<<10)])
	b.bytes += int64(n)
	if wait := b.meter.pass(int64(n)); wait != nil {
		<-wait
		return 0, errors.New("stopped")
	}
	return n, err
}

func (b *measured) Close() error {
	b.once.Do(func() {
		b.meter.mu.Lock()
		defer b.meter.mu.Unlock()
		b.meter.moving -= b.bytes
	})
	return b.ReadCloser.Close()
}

// counted is what the server sends.
type counted struct {
	io.ReadCloser
	meter *meter
}

func (b *counted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.meter.mu.Lock()
	defer b.meter.mu.Unlock()
	b.meter.down += int64(n)
	return n, err
}
