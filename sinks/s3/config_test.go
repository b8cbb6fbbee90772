// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/sinks"
)

// clearEnvironment takes away what would stand in for options.
func clearEnvironment(t testing.TB) {
	for _, name := range []string{
		"VMSTREAM_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "VMSTREAM_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE",
	} {
		t.Setenv(name, "")
	}
}

func TestEndpoint(t *testing.T) {
	for _, c := range []struct {
		query string
		env   map[string]string
		want  string
	}{
		{"", nil, "https://s3.us-east-1.amazonaws.com"},
		{"region=eu-west-3", nil, "https://s3.eu-west-3.amazonaws.com"},
		{"", map[string]string{"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"},
		{"endpoint=host:9000", nil, "https://host:9000"},
		{"endpoint=http://host", map[string]string{"AWS_ENDPOINT_URL": "https://other"}, "http://host"},
		{"", map[string]string{"AWS_ENDPOINT_URL": "https://a", "AWS_ENDPOINT_URL_S3": "http://b"}, "http://b"},
		{"", map[string]string{"AWS_ENDPOINT_URL_S3": "http://b", "VMSTREAM_S3_ENDPOINT": "c/"}, "https://c"},
	} {
		t.Run(c.query, func(t *testing.T) {
			clearEnvironment(t)
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			given, err := sinks.ParseOptions(scheme, c.query, options)
			if err != nil {
				t.Fatal(err)
			}
			got, err := configure(given)
			if err != nil {
				t.Fatal(err)
			}
			if s := got.endpoint.Scheme + "://" + got.endpoint.Host; s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
		})
	}
}

func TestBadTargets(t *testing.T) {
	clearEnvironment(t)
	long := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(long, make([]byte, 33), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, rest := range []string{
		"//", "///key", "bucket/key", "//user@bucket/k", "//user:secret@bucket/k", "//bucket:80/k", "//bucket/k#f", "//B_/k?unknown=1",
		"//b/k?endpoint=ftp://x", "//b/k?endpoint=http://u:p@x", "//b/k?endpoint=http://x/path", "//b/k?endpoint=http://",
		"//b/k?path-style=yes", "//b/k?part-size=1M", "//b/k?part-size=6G", "//b/k?part-size=M", "//b/k?part-size=-5M", "//b/k?part-size=9999999999999T",
		"//b/k?parallel=0", "//b/k?parallel=65", "//b/k?memory=1M", "//b/k?timeout=0s", "//b/k?timeout=x",
		"//b/k?retention=forever", "//b/k?retention=compliance", "//b/k?retain-days=1", "//b/k?retention=governance&retain-days=1&retain-until=2099-01-01T00:00:00Z",
		"//b/k?retention=governance&retain-days=0", "//b/k?retention=governance&retain-until=2001-01-01T00:00:00Z", "//b/k?legal-hold=maybe",
		"//b/k?sse=x", "//b/k?sse-key=x", "//b/k?sse=c", "//b/k?sse=c&sse-key-file=/nonexistent", "//b/k?sse=c&sse-key-file=" + long,
		"//b/k?endpoint=http://x&sse=c&sse-key-file=" + long, "//b/k?ca-file=/nonexistent", "//b/k?ca-file=" + long,
	} {
		_, _, err := Driver().Open(t.Context(), sinks.Target{Scheme: scheme, Rest: rest}, nil)
		if !errors.Is(err, sinks.ErrTarget) {
			t.Errorf("%s gives %v", rest, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s is repeated: %v", rest, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "5": 5, "5K": 5 << 10, "16M": 16 << 20, "5G": 5 << 30, "1T": 1 << 40} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s gives %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "5MM", "5KM", "5m", "-1", "1.5M", "9999999T", " 5"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q gives %d", text, got)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("//bucket/key?part-size=16M&parallel=3&endpoint=http://h:1&sse=s3")
	f.Add("//bucket/?retention=governance&retain-days=3&legal-hold=1&timeout=3s&memory=1G")
	f.Fuzz(func(t *testing.T, rest string) {
		if strings.Contains(rest, "file") {
			return // it would be read
		}
		s, _, err := Driver().Open(t.Context(), sinks.Target{Scheme: scheme, Rest: rest}, nil)
		if err != nil {
			return
		}
		if got := s.(*sink); got.plan.first < minPartBytes || got.parallel < 1 || got.memoryBytes < 16<<20 || got.endpoint.Host == "" {
			t.Errorf("%+v", got.config)
		}
	})
}

// FuzzAnswers gives a server's answers to all that parses them.
func FuzzAnswers(f *testing.F) {
	f.Add("<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>", 200)
	f.Add("<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>1</UploadId></Upload></ListMultipartUploadsResult>", 200)
	f.Add("<ListPartsResult><Part><PartNumber>1</PartNumber><Size>5</Size></Part></ListPartsResult>", 200)
	f.Add("<Error><Code>NoSuchKey</Code><Message>m</Message></Error>", 404)
	s3lab.Login(f)
	var answer string
	var status int
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"e"`)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	f.Cleanup(front.Close)
	f.Fuzz(func(t *testing.T, text string, code int) {
		answer, status = text, 200+max(code, -code)%400
		s := open(t, front.Listener.Addr().String(), "bucket", "")
		s.backoff.Tries = 1
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				break
			}
		}
		for _, err := range s.Orphans(t.Context(), "") {
			if err != nil {
				break
			}
		}
		if _, err := store(t.Context(), s, "k", []byte("x"), sinks.CreateOptions{Resume: true}); err == nil && len(text) != 1 {
			t.Error("a server that does nothing has stored something")
		}
	})
}

// TestTLS speaks to a server whose certificate is trusted by a file.
func TestTLS(t *testing.T) {
	s3lab.Login(t)
	clearEnvironment(t)
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "AES256" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Etag", `"0"`)
		w.Header().Set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
		w.Header().Set("Content-Length", "7")
	}))
	defer front.Close()
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca"), filepath.Join(dir, "key")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	text := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	if err := errors.Join(os.WriteFile(ca, block, 0o600), os.WriteFile(key, []byte(text+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	stat := func(options string) (sinks.Info, error) {
		rest := "//bucket/k?path-style=1&sse=c&sse-key-file=" + key + "&endpoint=" + front.Listener.Addr().String() + options
		s, name, err := Driver().Open(t.Context(), sinks.Target{Scheme: scheme, Rest: rest}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.(*sink).backoff = quick
		return s.Stat(t.Context(), name)
	}
	if info, err := stat("&ca-file=" + ca); err != nil || info.SizeBytes != 7 {
		t.Errorf("with the certificate: %+v, %v", info, err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := stat(""); err == nil || errors.Is(err, sinks.ErrTransient) {
		t.Errorf("without the certificate: %v (%v)", err, errors.As(err, &unknown))
	}
}

// TestEncryption has a server that does not say that it encrypts: nothing is sent.
func TestEncryption(t *testing.T) {
	s3lab.Login(t)
	bodies := 0
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch s3lab.KindOf(r) {
		case "head":
			w.WriteHeader(http.StatusNotFound)
		case "begin":
			_, _ = io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
		case "abort":
			w.WriteHeader(http.StatusNoContent)
		case "part":
			w.Header().Set("Etag", `"e"`)
			if r.ContentLength > 1 || r.URL.Query().Get("partNumber") != "10000" {
				bodies++ // more than the byte that is sent to see what becomes of it
			}
		default:
			bodies++
		}
	}))
	defer front.Close()
	for _, options := range []string{"sse=s3", "sse=kms&sse-key=name"} {
		s := open(t, front.Listener.Addr().String(), "bucket", options)
		for _, size := range []int{1, 20 << 20} {
			if _, err := store(t.Context(), s, "k", noise(1, size), sinks.CreateOptions{}); !errors.Is(err, sinks.ErrUnsupported) {
				t.Errorf("%s gives %v", options, err)
			}
		}
	}
	if bodies > 0 {
		t.Errorf("%d requests had content", bodies)
	}
}

// TestServerEncryption has a server encrypt for real. An upload that was begun without is
// not taken for one that is encrypted.
func TestServerEncryption(t *testing.T) {
	s3lab.Login(t)
	server := s3lab.MinIO(t)
	bucket := server.Bucket(t, false)
	for _, options := range []string{"sse=s3", "sse=kms&sse-key=" + s3lab.KeyName} {
		s := open(t, server.Endpoint, bucket, "part-size=5M&"+options)
		for _, size := range []int{0, 100, 12 << 20} {
			content := noise(2, size)
			if _, err := store(t.Context(), s, "k", content, sinks.CreateOptions{Overwrite: true}); err != nil {
				t.Fatalf("%s, %d bytes: %v", options, size, err)
			}
			has(t, server, bucket, "k", content)
			info, err := server.Client().StatObject(t.Context(), bucket, "k", minio.StatObjectOptions{})
			if err != nil || info.Metadata.Get("X-Amz-Server-Side-Encryption") == "" {
				t.Errorf("%s, %d bytes: stored with %v, %v", options, size, info.Metadata, err)
			}
		}
	}
	content := noise(4, 23<<20)
	interrupt(t, open(t, server.Endpoint, bucket, "part-size=5M"), content)
	s := open(t, server.Endpoint, bucket, "part-size=5M&sse=s3")
	if _, err := store(t.Context(), s, "dir/k", content, sinks.CreateOptions{Resume: true}); !errors.Is(err, sinks.ErrUnsupported) {
		t.Errorf("going on without encryption gives %v", err)
	}
}

// TestStyles looks where the bucket is in requests.
func TestStyles(t *testing.T) {
	s3lab.Login(t)
	clearEnvironment(t)
	asked := make(chan string, 1)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host + r.URL.Path
		w.WriteHeader(http.StatusNotFound)
	}))
	defer front.Close()
	through, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"?endpoint=http://s3.test":                                     "s3.test/bucket/k",
		"?endpoint=http://s3.test&path-style=1":                        "s3.test/bucket/k",
		"?endpoint=http://s3.test&path-style=0":                        "bucket.s3.test/k",
		"?region=eu-west-1&endpoint=http://s3.eu-west-1.amazonaws.com": "bucket.s3.eu-west-1.amazonaws.com/k",
		"?endpoint=http://s3.us-east-1.amazonaws.com&path-style=1":     "s3.us-east-1.amazonaws.com/bucket/k",
	} {
		opened, key, err := Driver().Open(t.Context(), sinks.Target{Scheme: scheme, Rest: "//bucket/k" + query}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := opened.(*sink)
		s.backoff, s.transport.Proxy = quick, http.ProxyURL(through)
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, sinks.ErrNotExist) {
			t.Errorf("%s: Stat gives %v", query, err)
			continue
		}
		if got := <-asked; got != want {
			t.Errorf("%s asks for %s, not %s", query, got, want)
		}
	}
}

// TestProviders finds credentials at a service on this host.
func TestProviders(t *testing.T) {
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	bucket := server.Bucket(t, false)
	asked := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"AccessKeyId":"`+s3lab.AccessKey+`","SecretAccessKey":"`+s3lab.SecretKey+`","Token":"","Expiration":"2099-01-01T00:00:00Z"}`)
	}))
	defer service.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true") // containers have another service
	s := open(t, server.Endpoint, bucket, "")
	if _, err := store(t.Context(), s, "k", noise(1, 100), sinks.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
