// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

type (
	before = func(kind string, n int, w http.ResponseWriter, r *http.Request) bool
	after  = func(kind string, n int, resp *http.Response) error
)

// on answers requests of a kind, from the first to the nth, with f.
func on(kind string, last int, f func(w http.ResponseWriter, r *http.Request) bool) before {
	return func(k string, n int, w http.ResponseWriter, r *http.Request) bool {
		return k == kind && n <= last && f(w, r)
	}
}

func refusing(status int, code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		return s3lab.Refuse(w, status, code)
	}
}

func dropping(w http.ResponseWriter, r *http.Request) bool { return s3lab.Drop() }

// midway reads some of a body and resets the connection.
func midway(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
	return s3lab.Drop()
}

// lose lets the server do it and loses the answer.
func lose(kind string) after {
	return func(k string, n int, _ *http.Response) error {
		if k == kind && n == 1 {
			return errors.New("lost")
		}
		return nil
	}
}

const always = 1 << 30

// TestWriteFaults stores an object of four parts and one of one request through a
// proxy that makes trouble. What goes well must be whole, and what does not must leave
// neither an object nor an upload.
func TestWriteFaults(t *testing.T) {
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	forged := func(h string) after {
		return func(k string, n int, resp *http.Response) error {
			if resp.Header.Get(h) != "" {
				resp.Header.Set(h, map[string]string{"Etag": `"0123456789abcdef0123456789abcdef"`, checksumHeader: "AAAAAA=="}[h])
			}
			return nil
		}
	}
	for _, c := range []struct {
		name   string
		before before
		after  after
		want   error // nil: it goes well
		stays  bool  // the server may have the object though there is an error
	}{
		{name: "500 on parts", before: on("part", 3, refusing(500, "InternalError"))},
		{name: "503 on parts", before: on("part", 3, refusing(503, "SlowDown"))},
		{name: "502 without XML", before: on("part", 2, func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway)
			return true
		})},
		{name: "resets before parts", before: on("part", 3, dropping)},
		{name: "resets in parts", before: on("part", 3, midway)},
		{name: "damage on the way", before: on("part", 2, refusing(400, "BadDigest"))},
		{name: "lost answer of a part", after: lose("part")},
		{name: "lost answer of the beginning", after: lose("begin"), stays: true},
		{name: "lost answer of Complete", after: lose("complete")},
		{name: "lost answer of Put", after: lose("put")},
		{name: "500 on Complete", before: on("complete", 2, refusing(500, "InternalError"))},
		{name: "500 on Put", before: on("put", 2, refusing(500, "InternalError"))},
		{name: "expired credentials", before: on("part", 1, refusing(400, "ExpiredToken"))},
		{name: "200 with an error on Complete", before: on("complete", 1, refusing(200, "InternalError"))},
		{name: "may not look", before: on("head", always, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		})},
		{name: "500 for ever", before: on("part", always, refusing(500, "InternalError")), want: sinks.ErrExhausted},
		{name: "no such upload", before: on("part", 1, refusing(404, "NoSuchUpload")), want: errAny},
		{name: "denied", before: on("part", always, refusing(403, "AccessDenied")), want: os.ErrPermission},
		{name: "redirect", before: on("part", always, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}), want: errAny},
		{name: "wrong ETags", after: forged("Etag"), want: errAny, stays: true},
		{name: "wrong checksums", after: forged("X-Amz-Checksum-Crc32c"), want: errAnswer},
		{name: "another length", after: func(kind string, _ int, resp *http.Response) error {
			if kind == "head" && resp.StatusCode == http.StatusOK {
				resp.Header.Set("Content-Length", "5")
				resp.ContentLength = 5
			}
			return nil
		}, want: sinks.ErrUnknown, stays: true},
		{name: "no XML", before: on("begin", always, func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, "it works!")
			return true
		}), want: errAny},
		{name: "Complete without end", before: on("complete", always, endless), want: sinks.ErrUnknown, stays: true},
		{name: "Complete never answered", before: on("complete", always, dropping), want: sinks.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := server.Bucket(t, false)
			p := s3lab.NewProxy(t, server)
			p.Before, p.After = c.before, c.after
			s, _, log := openLogged(t, p.Address, bucket, "part-size=5M&parallel=2")
			content := noise(3, 18<<20)
			_, err := store(t.Context(), s, "k", content, sinks.CreateOptions{})
			check(t, server, bucket, content, err, c.want, c.stays)
			if strings.Contains(c.name, "Put") {
				_, err := store(t.Context(), s, "small", content[:1000], sinks.CreateOptions{})
				if err != nil {
					t.Error(err)
				}
				has(t, server, bucket, "small", content[:1000])
			}
			hasNoSecrets(t, log.String(), err)
		})
	}
}

var errAny = errors.New("any")

func endless(w http.ResponseWriter, _ *http.Request) bool {
	line := bytes.Repeat([]byte(" "), 1<<20)
	for {
		if _, err := w.Write(line); err != nil {
			return true
		}
	}
}

func check(t *testing.T, server *s3lab.Server, bucket string, content []byte, err, want error, stays bool) {
	t.Helper()
	if want == nil {
		if err != nil {
			t.Fatal(err)
		}
		has(t, server, bucket, "k", content)
	} else {
		if err == nil || want != errAny && !errors.Is(err, want) {
			t.Errorf("gives %v, not %v", err, want)
		}
		_, there := server.Client().StatObject(t.Context(), bucket, "k", minio.StatObjectOptions{})
		if there == nil && (!stays || want == sinks.ErrUnknown != errors.Is(err, sinks.ErrUnknown)) {
			t.Errorf("an object is there after %v", err)
		}
	}
	if n := uploadsLeft(t, server, bucket); n > 0 && !stays {
		t.Errorf("%d uploads are left", n)
	}
}

func hasNoSecrets(t *testing.T, log string, errs ...error) {
	t.Helper()
	for _, text := range []string{log, fmt.Sprint(errs)} {
		for _, secret := range []string{s3lab.AccessKey, s3lab.SecretKey, "Signature="} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in: %s", secret, text)
			}
		}
	}
}

// TestEcho has a server that tells everybody what it was told.
func TestEcho(t *testing.T) {
	s3lab.Login(t)
	t.Setenv("AWS_SESSION_TOKEN", "labTOKENxyz")
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "<Error><Code>Bad"+s3lab.AccessKey+"</Code><Message>"+r.Header.Get("Authorization")+
			"\n"+s3lab.SecretKey+" Authorization: "+r.Header.Get("Authorization")+" X-Amz-Security-Token="+r.Header.Get("X-Amz-Security-Token")+
			strings.Repeat("x", 1<<20)+"</Message></Error>")
	}))
	defer front.Close()
	s, _, log := openLogged(t, front.Listener.Addr().String(), "bucket", "")
	_, _, err := s.Open(t.Context(), "k")
	if err == nil || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "labTOKENxyz") {
		t.Errorf("Open gives %v", err)
	}
	hasNoSecrets(t, log.String(), err)
}

// TestStall has a server that takes a request and never answers.
func TestStall(t *testing.T) {
	s3lab.Login(t)
	stop := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer front.Close()
	defer close(stop)
	s := open(t, front.Listener.Addr().String(), "bucket", "timeout=1s")
	s.backoff.Tries = 2
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, sinks.ErrExhausted) {
		t.Errorf("Stat gives %v", err)
	}
}

// TestSlow has a connection that takes several times as long for a part as it may stand
// still.
func TestSlow(t *testing.T) {
	testenv.Long(t)
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	bucket := server.Bucket(t, false)
	p := s3lab.NewProxy(t, server)
	p.Before = func(kind string, _ int, _ http.ResponseWriter, r *http.Request) bool {
		if kind == "part" {
			r.Body = slow{r.Body}
		}
		return false
	}
	p.After = func(kind string, _ int, resp *http.Response) error {
		if kind == "get" {
			resp.Body = slow{resp.Body}
		}
		return nil
	}
	s, _, log := openLogged(t, p.Address, bucket, "part-size=5M&timeout=3s")
	dial := s.transport.DialContext
	s.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil { // else much of a part fits the system's buffer, which empties unseen
			err = c.(*conn).Conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		}
		return c, err
	}
	content := noise(9, 5<<20+1000)
	if _, err := store(t.Context(), s, "k", content, sinks.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if got, err := load(t.Context(), s, "k"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes come back, %v", len(got), err)
	}
	if strings.Contains(log.String(), "will try again") || strings.Contains(log.String(), "goes on reading") {
		t.Errorf("it has given up in between: %s", log.String())
	}
}

// slow needs five seconds for 5 MiB.
type slow struct{ io.ReadCloser }

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(25 * time.Millisecond)
	return s.ReadCloser.Read(p[:min(len(p), 26<<10)])
}

// TestExpired has credentials in a file that is renewed while they are used.
func TestExpired(t *testing.T) {
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	bucket := server.Bucket(t, false)
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(key string) {
		text := "[other]\naws_access_key_id = " + key + "\naws_secret_access_key = " + s3lab.SecretKey + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("OLDKEY")
	t.Setenv("AWS_ACCESS_KEY_ID", "WRONG")
	p := s3lab.NewProxy(t, server)
	renewals := 0
	p.Before = func(_ string, _ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.Header.Get("Authorization"), "OLDKEY") {
			return false
		}
		write(s3lab.AccessKey)
		renewals++
		return s3lab.Refuse(w, http.StatusForbidden, "ExpiredToken")
	}
	s := open(t, p.Address, bucket, "profile=other&credentials-file="+file)
	if _, err := store(t.Context(), s, "k", noise(1, 100), sinks.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if renewals == 0 {
		t.Error("the old credentials were not used")
	}
}

func TestNoCredentials(t *testing.T) {
	s3lab.Login(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	s := open(t, "127.0.0.1:1", "bucket", "")
	begun := time.Now()
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, errNoCredentials) || errors.Is(err, sinks.ErrTransient) {
		t.Errorf("Stat gives %v after %v", err, time.Since(begun))
	}
}
