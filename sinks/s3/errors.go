// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/sinks"
)

// failure is what a request came to. errors.Is finds its kinds.
type failure struct {
	op, place string // what was to be done, and where: host, bucket and key
	code      string // S3's name of the error, or empty
	status    int    // of HTTP, or 0
	text      string
	kinds     []error
}

func (f *failure) Error() string {
	what := f.text
	switch {
	case f.code != "" && f.status != 0:
		what = fmt.Sprintf("%s (HTTP %d): %s", f.code, f.status, f.text)
	case f.status != 0:
		what = fmt.Sprintf("HTTP %d: %s", f.status, f.text)
	}
	return fmt.Sprintf("s3: %s %s: %s", f.op, f.place, what)
}

func (f *failure) Unwrap() []error { return f.kinds }

func (f *failure) is(codes ...string) bool { return slices.Contains(codes, f.code) }

const (
	maxMessage = 300 // bytes of a server's words in an error
	maxCode    = 60
)

// expired are the codes for credentials whose time is over: others may be had.
var expired = []string{"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}

// passing are the codes of errors that go away, whatever the status.
var passing = append([]string{
	"RequestTimeout", "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException",
	"RequestThrottled", "RequestLimitExceeded", "InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict",
	// damaged or cut on its way; what it is computed from is in memory
	"BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody",
}, expired...)

// fault makes a failure of the error of a request. ctx is that of the request.
func (s *sink) fault(ctx context.Context, op, key string, err error) *failure {
	f := &failure{op: op, place: s.place(key)}
	var known *failure
	if errors.As(err, &known) {
		return known
	}
	var answer minio.ErrorResponse
	switch cause := context.Cause(ctx); {
	case ctx.Err() != nil:
		f.text, f.kinds = cause.Error(), []error{cause}
	case errors.As(err, &answer):
		f.answered(s, answer)
	default:
		f.broken(s, err)
	}
	return f
}

func (s *sink) place(key string) string {
	return fmt.Sprintf("%s %s/%s", s.endpoint.Host, s.bucket, key)
}

// answered takes the words of the server.
func (f *failure) answered(s *sink, a minio.ErrorResponse) {
	f.code, f.status = s.clean(a.Code, maxCode), a.StatusCode
	f.text = s.clean(a.Message, maxMessage)
	switch {
	case f.status >= 300 && f.status < 400:
		f.text = "the server sends us elsewhere, where nobody goes: set endpoint, region or path-style"
		if region := s.clean(a.Region, maxCode); region != "" {
			f.text += "; it speaks of region " + region
		}
	case f.is("NoSuchKey", "NoSuchVersion"):
		f.kinds = append(f.kinds, sinks.ErrNotExist)
	case f.is("NotImplemented") || f.status == http.StatusNotImplemented || f.status == http.StatusMethodNotAllowed:
		f.kinds = append(f.kinds, sinks.ErrUnsupported)
	case f.status == http.StatusPreconditionFailed:
		f.kinds = append(f.kinds, errCondition)
	case f.is(passing...) || f.status >= 500 || f.status == http.StatusTooManyRequests || f.status == http.StatusRequestTimeout:
		f.kinds = append(f.kinds, sinks.ErrTransient)
	case f.status == http.StatusForbidden || f.status == http.StatusUnauthorized:
		f.kinds = append(f.kinds, fs.ErrPermission)
	}
}

// errCondition: the object is there where it should not be, or is another one.
var errCondition = errors.New("a condition does not hold")

// broken takes an error that is no answer of the server.
func (f *failure) broken(s *sink, err error) {
	var asURL *url.Error
	if errors.As(err, &asURL) {
		err = asURL.Err // its URL has an upload's id and says nothing new
	}
	f.text = s.clean(err.Error(), maxMessage)
	var syntax *xml.SyntaxError
	var kind xml.UnmarshalError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, errAnswer), errors.Is(err, errNoCredentials), errors.Is(err, errChanged), errors.Is(err, errPlain):
		f.kinds = append(f.kinds, err)
	case errors.As(err, &syntax), errors.As(err, &kind):
		f.text = "the answer is not what S3 says: " + f.text
	case errors.As(err, &verify), errors.As(err, &record), errors.As(err, &authority), strings.Contains(f.text, "HTTP response to HTTPS client"):
	default:
		f.kinds = append(f.kinds, sinks.ErrTransient)
	}
}

// errAnswer: a server's answer that cannot be right.
var errAnswer = errors.New("the server's answer is wrong")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errAnswer, fmt.Errorf(format, args...))
}

var signature = regexp.MustCompile(`(?i)(signature|credential|security-token|authorization)"?\s*[:=]\s*\S+`)

// clean returns text of a server in a form that is fit for a log: short, on one
// line, and without what we have told it.
func (s *sink) clean(text string, limit int) string {
	for _, secret := range s.source.secrets() {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[removed]")
		}
	}
	text = signature.ReplaceAllString(text, "[removed]")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r > 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// isCode reports if an error is a server's answer with a code.
func isCode(err error, codes ...string) bool {
	var f *failure
	return errors.As(err, &f) && f.is(codes...)
}
