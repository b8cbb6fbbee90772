// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

const (
	maxAnswer  = 8 << 20 // bytes of an answer that is no object
	maxHeaders = 256 << 10
	bufferSize = 256 << 10 // of a connection, each way
	maxCAFile  = 16 << 20
)

// transport bounds what servers answer.
type transport struct{ *http.Transport }

// newTransport returns one with the environment's proxy, the system's certificates
// and those of the target.
func newTransport(c config) (*transport, error) {
	roots, err := certificates(c.caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &transport{&http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &conn{Conn: nc, timeout: c.timeout}, nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    30 * time.Second,
		MaxIdleConnsPerHost:    c.parallel + 2,
		IdleConnTimeout:        time.Minute,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeaders,
		WriteBufferSize:        bufferSize,
		ReadBufferSize:         bufferSize,
		DisableCompression:     true, // lengths and ranges are those of the object
	}}, nil
}

func certificates(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("s3 target: ca-file: %w: %w", err, sinks.ErrTarget)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err != nil {
		return nil, fmt.Errorf("s3 target: ca-file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, bad("ca-file", "it has no certificate")
	}
	return roots, nil
}

// proxy is that of the environment, but a cloud's own addresses are not asked for
// through one.
func proxy(r *http.Request) (*url.URL, error) {
	if ip := net.ParseIP(r.URL.Hostname()); ip != nil && ip.IsLinkLocalUnicast() {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// conn is a connection that may be slow and may not stand still: its deadline
// moves with every byte.
type conn struct {
	net.Conn
	timeout time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	done := 0
	for {
		if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(p[done:min(len(p), done+bufferSize)])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// want is in a request's context what is wanted of its answer.
type want struct {
	object bool        // the body may be an object
	header http.Header // of the answer
	body   *bounded
}

// release takes the bound off a body that is the object, of the length that the answer
// says. Until then there is one: the client reads an answer that it does not like to
// its end.
func (w *want) release() { w.body.left = math.MaxInt64 }

type wantKey struct{}

func wanting(ctx context.Context, w *want) context.Context {
	return context.WithValue(ctx, wantKey{}, w)
}

// RoundTrip bounds the answer's body.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	w, _ := r.Context().Value(wantKey{}).(*want)
	object := w != nil && w.object && resp.StatusCode/100 == 2
	if resp.ContentLength > maxAnswer && !object && r.Method != http.MethodHead {
		return nil, errors.Join(wrong("it is %d bytes long", resp.ContentLength), resp.Body.Close())
	}
	body := &bounded{ReadCloser: resp.Body, left: maxAnswer}
	resp.Body = body
	if w != nil {
		w.header, w.body = resp.Header, body
	}
	return resp, nil
}

// bounded is a body that is an error when it goes on for too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, wrong("it is longer than %d bytes", int64(maxAnswer))
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
