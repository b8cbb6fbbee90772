// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/internal/s3lab"
)

// faultProxy stands between a sink and a real server and does what networks and servers do.
type faultProxy struct {
	address string
	server  string
	reverse *httputil.ReverseProxy
	// before may answer a request itself; after may change an answer. n counts the
	// requests of the kind that kindOf tells, from 1.
	mu     sync.Mutex
	before func(kind string, n int, w http.ResponseWriter, r *http.Request) bool
	after  func(kind string, n int, resp *http.Response) error
	count  map[string]int
}

func newProxy(tb testing.TB, server *s3lab.Server) *faultProxy {
	p := &faultProxy{server: server.Endpoint, count: map[string]int{}}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: p.server})
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(resp *http.Response) error {
			if p.after == nil {
				return nil
			}
			kind := kindOf(resp.Request)
			return p.after(kind, p.counted(kind), resp)
		},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	front := httptest.NewUnstartedServer(p)
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	tb.Cleanup(front.Close)
	p.address = front.Listener.Addr().String()
	return p
}

// kindOf names what a request asks for.
func kindOf(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case q.Has("partNumber"):
		return "part"
	case q.Has("uploads") && r.Method == http.MethodPost:
		return "begin"
	case q.Has("uploadId") && r.Method == http.MethodPost:
		return "complete"
	case q.Has("uploadId") && r.Method == http.MethodDelete:
		return "abort"
	}
	return strings.ToLower(r.Method)
}

func (p *faultProxy) counted(kind string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[kind]
}

func (p *faultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := kindOf(r)
	p.mu.Lock()
	p.count[kind]++
	n := p.count[kind]
	p.mu.Unlock()
	if p.before != nil && p.before(kind, n, w, r) {
		return
	}
	p.reverse.ServeHTTP(w, r)
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>for a test</Message></Error>", code)
	return true
}

// drop closes the connection.
func drop() bool { panic(http.ErrAbortHandler) }
