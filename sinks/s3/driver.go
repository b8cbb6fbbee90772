// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vmstream/vmstream/sinks"
)

const scheme = "s3"

var capabilities = sinks.Capabilities{
	Read: true, Range: true, Stat: true, List: true, Delete: true, Resume: true, Orphans: true,
	Atomic: true, Exclusive: true, Concurrent: true,
	MaxObjectBytes: maxParts * maxPartBytes,
}

type driver struct{}

// Driver returns the driver of s3://BUCKET/KEY.
func Driver() sinks.Driver { return driver{} }

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: scheme, Summary: "objects in a bucket of S3 or of a server that speaks its protocol",
		Form: "s3://BUCKET/KEY", Options: options,
		Environment: []string{
			"AWS_*", "VMSTREAM_S3_*", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
			"HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
		},
		Capabilities: capabilities,
	}
}

// Open makes a client; it does not ask the server anything yet.
func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	bucket, path, given, err := t.URL(options)
	if err != nil {
		return nil, "", err
	}
	if bucket == "" || strings.ContainsAny(bucket, "@:") {
		return nil, "", fmt.Errorf("s3 target: bucket %q: write s3://BUCKET/KEY: %w", bucket, sinks.ErrTarget)
	}
	c, err := configure(given)
	if err != nil {
		return nil, "", err
	}
	s, err := newSink(bucket, c, log)
	if err != nil {
		return nil, "", err
	}
	return s, strings.TrimPrefix(path, "/"), nil
}

func newSink(bucket string, c config, log *slog.Logger) (*sink, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	transport, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	source := &chain{profile: c.profile, file: c.credentialsFile}
	creds := credentials.New(source)
	client, err := minio.New(c.endpoint.Host, &minio.Options{
		Creds: creds, Secure: c.endpoint.Scheme == "https", Transport: transport,
		Region: c.region, BucketLookup: c.lookup,
		MaxRetries: 1, // what is worth another try is for us to say
	})
	if err != nil {
		return nil, fmt.Errorf("s3 target: endpoint %s: %w: %w", c.endpoint.Host, err, sinks.ErrTarget)
	}
	client.SetAppInfo("vmstream", "1")
	client.SetS3EnableDualstack(false) // would ask another host than the endpoint says
	return &sink{
		config: c, bucket: bucket, core: minio.Core{Client: client}, creds: creds, source: source, log: log,
		transport: transport, backoff: defaultBackoff,
	}, nil
}
