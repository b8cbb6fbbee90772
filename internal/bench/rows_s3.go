// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	s3Bucket   = "bench"
	s3AccessID = "BENCHACCESSKEY"
	s3Secret   = "benchSECRET0123456789"
	s3StartMax = time.Minute
	// Parts of 16 MiB that are sent at a time, by all programs.
	s3Parallel = "4"
	s3MaxMiB   = defaultRSS + 160
)

// s3 measures what a user would pick instead of --to: a pipe into rclone, which sends as
// many parts of the same length at a time to the same server.
func (b *bench) s3(ctx context.Context) (row, error) {
	server := b.s3Server
	if server == "" {
		server = "versitygw"
	}
	r := row{title: "backup, not compressed, to an S3 server on the loopback", warm: []string{b.disk}}
	address := "127.0.0.1:0"
	if path, err := exec.LookPath(server); err == nil {
		if address, err = b.startS3(ctx, path); err != nil {
			return r, err
		}
	}
	env := []string{
		"AWS_ACCESS_KEY_ID=" + s3AccessID, "AWS_SECRET_ACCESS_KEY=" + s3Secret, "AWS_REGION=us-east-1", "AWS_CA_BUNDLE=", "VMSTREAM_S3_ENDPOINT=http://" + address,
		"RCLONE_CONFIG=" + os.DevNull, "RCLONE_CONFIG_LAB_TYPE=s3", "RCLONE_CONFIG_LAB_PROVIDER=Other", "RCLONE_CONFIG_LAB_ENV_AUTH=true",
		"RCLONE_CONFIG_LAB_ENDPOINT=http://" + address, "RCLONE_CONFIG_LAB_REGION=us-east-1",
	}
	object := filepath.Join("s3", "data", s3Bucket, "disk.tar")
	store := func(needs []string, limits []limit, stages ...[]string) cand {
		p := pipe(stages...)
		p.env = env
		return cand{pipe: p, needs: needs, limits: limits, before: b.fresh(object), size: b.sizeOf(object)}
	}
	r.cands = []cand{
		store([]string{server}, []limit{{rssMiB, s3MaxMiB}},
			b.cmd("backup", "--to", "s3://"+s3Bucket+"/disk.tar?part-size=16M&parallel="+s3Parallel, b.disk)),
		store([]string{server, "rclone"}, []limit{{wallRatio, 1 / 0.9}},
			b.cmd("backup", b.disk),
			[]string{
				"rclone", "rcat", "--s3-upload-concurrency", s3Parallel, "--s3-chunk-size", "16M", "--streaming-upload-cutoff", "0",
				// The server does not answer Expect: 100-continue, for which rclone waits a second for each part.
				"--expect-continue-timeout", "0", "lab:" + s3Bucket + "/disk.tar",
			}),
	}
	return r, nil
}

// startS3 runs a versitygw, until cleanUp, whose buckets are directories, and returns its
// address.
func (b *bench) startS3(ctx context.Context, program string) (string, error) {
	dir := b.path("s3")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	said := &tail{}
	c := exec.CommandContext(ctx, program, "--port", address, "posix", filepath.Join(dir, "data"))
	c.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3AccessID, "ROOT_SECRET_KEY="+s3Secret)
	c.Stderr = said
	if err := c.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	b.stops = append(b.stops, func() {
		_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
	})
	return address, makeBucket(ctx, address, ended, said)
}

// makeBucket waits until the server answers and makes the bucket.
func makeBucket(ctx context.Context, address string, ended <-chan struct{}, said *tail) error {
	ctx, cancel := context.WithTimeout(ctx, s3StartMax)
	defer cancel()
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(s3AccessID, s3Secret, ""), Region: "us-east-1", MaxRetries: 1})
	if err != nil {
		return err
	}
	for {
		err := client.MakeBucket(ctx, s3Bucket, minio.MakeBucketOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the S3 server has ended: %s", lastLines(said))
		case <-ctx.Done():
			return fmt.Errorf("the S3 server makes no bucket: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
