// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3lab

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
)

// Proxy stands between a sink and a real server and does what networks and servers do.
// Its fields are set before it is used.
type Proxy struct {
	Address string // host and port
	// Before may answer a request itself, and says if it has; After may change an
	// answer. n counts the requests of the kind that KindOf tells, from 1.
	Before func(kind string, n int, w http.ResponseWriter, r *http.Request) bool
	After  func(kind string, n int, resp *http.Response) error

	reverse *httputil.ReverseProxy
	mu      sync.Mutex
	count   map[string]int
}

// NewProxy starts one in front of a server, for the time of a test.
func NewProxy(tb testing.TB, server *Server) *Proxy {
	tb.Helper()
	p := &Proxy{count: map[string]int{}}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: server.Endpoint})
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(resp *http.Response) error {
			if p.After == nil {
				return nil
			}
			kind := KindOf(resp.Request)
			return p.After(kind, p.counted(kind), resp)
		},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	front := httptest.NewUnstartedServer(p)
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	tb.Cleanup(front.Close)
	p.Address = front.Listener.Addr().String()
	return p
}

// KindOf names what a request asks for: part, begin, complete and abort of an upload, or
// its method in small letters.
func KindOf(r *http.Request) string {
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

func (p *Proxy) counted(kind string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[kind]
}

// Recount lets the counts of requests begin anew.
func (p *Proxy) Recount() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.count)
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := KindOf(r)
	p.mu.Lock()
	p.count[kind]++
	n := p.count[kind]
	p.mu.Unlock()
	if p.Before != nil && p.Before(kind, n, w, r) {
		return
	}
	p.reverse.ServeHTTP(w, r)
}

// Refuse answers as S3 does.
func Refuse(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>for a test</Message></Error>", code)
	return true
}

// Drop closes the connection that a request came by.
func Drop() bool { panic(http.ErrAbortHandler) }
