// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/sinks"
)

// TestReadFaults reads an object through a proxy that makes trouble.
func TestReadFaults(t *testing.T) {
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	bucket := server.Bucket(t, false)
	content := noise(6, 9<<20)
	direct := open(t, server.Endpoint, bucket, "")
	if _, err := store(t.Context(), direct, "k", content, sinks.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	on := func(last int, f func(resp *http.Response)) after {
		return func(kind string, n int, resp *http.Response) error {
			if kind == "get" && n <= last && resp.StatusCode/100 == 2 {
				f(resp)
			}
			return nil
		}
	}
	cut := func(resp *http.Response) { resp.Body = io.NopCloser(io.LimitReader(resp.Body, 1<<20)) }
	for _, c := range []struct {
		name   string
		before before
		after  after
		want   error
	}{
		{name: "cut short thrice", after: on(3, cut)},
		{name: "cut short at once", after: on(3, func(r *http.Response) { r.Body = http.NoBody })},
		{name: "503", before: func(kind string, n int, w http.ResponseWriter, _ *http.Request) bool {
			return kind == "get" && n <= 3 && s3lab.Refuse(w, 503, "SlowDown")
		}},
		{name: "cut short for ever", after: on(always, func(r *http.Response) { r.Body = http.NoBody }), want: sinks.ErrExhausted},
		{name: "other range", after: on(always, func(r *http.Response) {
			cut(r)
			if r.Header.Get("Content-Range") != "" {
				r.Header.Set("Content-Range", "bytes 0-9/10")
			}
		}), want: errAnswer},
		{name: "range of another object", after: on(always, func(r *http.Response) {
			cut(r)
			r.Header.Set("Etag", fmt.Sprintf("%q", strings.Repeat("0", 31)+fmt.Sprint(r.StatusCode%7)))
		}), want: errChanged},
		{name: "no length", after: on(always, func(r *http.Response) {
			r.Header.Del("Content-Length")
			r.ContentLength = -1
		}), want: errAnswer},
		{name: "endless", before: func(kind string, _ int, w http.ResponseWriter, r *http.Request) bool {
			return kind == "get" && endless(w, r)
		}, want: errAny},
		{name: "elsewhere", before: func(kind string, _ int, w http.ResponseWriter, _ *http.Request) bool {
			if kind == "get" {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(http.StatusMovedPermanently)
			}
			return kind == "get"
		}, want: errAny},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s3lab.NewProxy(t, server)
			p.Before, p.After = c.before, c.after
			s, _, log := openLogged(t, p.Address, bucket, "")
			got, err := load(t.Context(), s, "k")
			judge(t, "Open", got, content, err, c.want)
			hasNoSecrets(t, log.String(), err)
			p.Recount()
			got, err = loadAt(t, s, "k")
			judge(t, "OpenAt", got, content, err, c.want)
		})
	}
}

func judge(t *testing.T, what string, got, content []byte, err, want error) {
	t.Helper()
	switch {
	case want == nil && (err != nil || !bytes.Equal(got, content)):
		t.Errorf("%s gives %d bytes, %v", what, len(got), err)
	case want != nil && (err == nil || want != errAny && !errors.Is(err, want)):
		t.Errorf("%s gives %d bytes, %v, not %v", what, len(got), err, want)
	}
}

func loadAt(t *testing.T, s *sink, key string) ([]byte, error) {
	t.Helper()
	r, err := s.OpenAt(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.NewSectionReader(r, 0, r.Info().SizeBytes))
}

// TestChanged replaces an object while it is read.
func TestChanged(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, false)
		s := open(t, server.Endpoint, bucket, "")
		if _, err := store(t.Context(), s, "k", noise(1, 1000), sinks.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenAt(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store(t.Context(), s, "k", noise(2, 1000), sinks.CreateOptions{Overwrite: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, errChanged) {
			t.Errorf("ReadAt gives %v", err)
		}
	})
}

// TestLists has servers that tell too much, or the same for ever.
func TestLists(t *testing.T) {
	s3lab.Login(t)
	entry := func(key string) string {
		return "<Contents><Key>" + key + "</Key><Size>1</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
	}
	list := func(inner string) string {
		return "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" + inner + "</ListBucketResult>"
	}
	upload := func(key, id string) string {
		return "<Upload><Key>" + key + "</Key><UploadId>" + id + "</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>"
	}
	uploads := func(inner string) string {
		return "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>" + inner + "</ListMultipartUploadsResult>"
	}
	for name, answer := range map[string]string{
		"the same page":         list(entry("a")),
		"backwards":             list(entry("b") + entry("a")),
		"other prefix":          list(entry("z")),
		"huge":                  list(strings.Repeat(entry("a"), 100_000)),
		"deep":                  strings.Repeat("<a>", 1_000_000),
		"a long key":            list(entry(strings.Repeat("a", 9<<20))),
		"no XML":                "<html><body>It works</body>",
		"nothing":               "",
		"the same uploads":      uploads(upload("a", "1")),
		"uploads without an id": uploads(upload("a", "")),
		"a long id":             uploads(upload("a", strings.Repeat("1", 1<<20))),
		"many uploads":          uploads(strings.Repeat(upload("a", "1"), 100_000)),
	} {
		t.Run(name, func(t *testing.T) {
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("uploadId") {
					_, _ = io.WriteString(w, "<ListPartsResult><IsTruncated>true</IsTruncated><Part><PartNumber>1</PartNumber><Size>-1</Size></Part></ListPartsResult>")
					return
				}
				_, _ = io.WriteString(w, answer)
			}))
			defer front.Close()
			s := open(t, front.Listener.Addr().String(), "bucket", "")
			var err error
			if strings.Contains(name, "upload") || strings.Contains(name, "id") {
				for _, err = range s.Orphans(t.Context(), "") {
					if err != nil {
						break
					}
				}
			} else {
				for _, err = range s.List(t.Context(), "a") {
					if err != nil {
						break
					}
				}
			}
			if err == nil {
				t.Error("it is believed")
			} else if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestKeys(t *testing.T) {
	s3lab.Login(t)
	s := open(t, "127.0.0.1:1", "bucket", "")
	for _, key := range []string{"", "a/", "/a", "a//b", ".", "a/../b", "a\x00", "\xff", strings.Repeat("x", 1025)} {
		if _, err := s.Create(t.Context(), key, sinks.CreateOptions{}); !errors.Is(err, sinks.ErrTarget) {
			t.Errorf("%.20q: Create gives %v", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, sinks.ErrTarget) {
			t.Errorf("%.20q: Stat gives %v", key, err)
		}
	}
}
