// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/internal/testenv"
)

const (
	speedVariable = "VMSTREAM_TEST_S3_SPEED" // bytes of the object, as 1024M; empty: not measured
	peerMode      = "peer "
)

// peer stores its input with the client library's own uploader.
func peer(spec []string) error {
	if len(spec) != 3 {
		return errors.New("needs address and bucket")
	}
	c, err := minio.New(spec[1], &minio.Options{Creds: credentials.NewEnvAWS(), Region: s3lab.Region})
	if err != nil {
		return err
	}
	o := minio.PutObjectOptions{PartSize: 16 << 20, NumThreads: 4, ConcurrentStreamParts: true, DisableContentSha256: true}
	_, err = c.PutObject(context.Background(), spec[2], "k", struct{ io.Reader }{os.Stdin}, -1, o)
	return err
}

// TestSpeed stores a file with us, rclone and the client library's own uploader in
// turns, and compares the medians.
func TestSpeed(t *testing.T) {
	text := os.Getenv(speedVariable)
	if text == "" {
		t.Skip("measures only if " + speedVariable + " says how many bytes")
	}
	size, err := parseSize(text)
	if err != nil {
		t.Fatal(err)
	}
	rclone := testenv.Tool(t, "rclone")
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) { testSpeed(t, server, rclone, size) })
}

func testSpeed(t *testing.T, server *s3lab.Server, rclone string, size int64) {
	file := filepath.Join(t.TempDir(), "input")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, stream(size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	bucket := server.Bucket(t, false)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	candidates := []struct {
		name string
		args []string
		env  []string
	}{
		{"vmstream", []string{self}, []string{fmt.Sprintf("%s=%s %s parallel=4 0 0", childVariable, server.Endpoint, bucket)}},
		{"rclone", []string{rclone, "rcat", "--s3-upload-concurrency", "4", "--s3-chunk-size", "16M", "--streaming-upload-cutoff", "0", "--expect-continue-timeout", "0", "lab:" + bucket + "/k"}, []string{
			"RCLONE_CONFIG=" + os.DevNull, "RCLONE_CONFIG_LAB_TYPE=s3", "RCLONE_CONFIG_LAB_PROVIDER=Other", "RCLONE_CONFIG_LAB_ENV_AUTH=true",
			"RCLONE_CONFIG_LAB_ENDPOINT=http://" + server.Endpoint, "RCLONE_CONFIG_LAB_REGION=" + s3lab.Region,
		}},
		{"minio-go PutObject", []string{self}, []string{fmt.Sprintf("%s=%s%s %s", childVariable, peerMode, server.Endpoint, bucket)}},
	}
	times := make([][]time.Duration, len(candidates))
	resident := make([]int64, len(candidates))
	for range 5 {
		for i, c := range candidates {
			d, rss := timed(t, c.args, c.env, file)
			times[i] = append(times[i], d)
			resident[i] = max(resident[i], rss)
			if err := server.Client().RemoveObject(t.Context(), bucket, "k", minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	for i, c := range candidates {
		slices.Sort(times[i])
		m := times[i][len(times[i])/2]
		t.Logf("%-20s %6.2f s  %5.0f MiB/s  %4d MiB resident", c.name, m.Seconds(), float64(size>>20)/m.Seconds(), resident[i]>>20)
	}
	ours := times[0][len(times[0])/2]
	for i := range times[1:] {
		theirs := times[i+1][len(times[i+1])/2]
		if ratio := float64(theirs) / float64(ours); ratio < 0.9 {
			t.Errorf("%.2f of the speed of %s", ratio, candidates[i+1].name)
		}
	}
	t.Logf("load %s", strings.TrimSpace(string(load)))
}

func timed(t *testing.T, args, env []string, input string) (time.Duration, int64) {
	t.Helper()
	f, err := os.Open(input)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = f
	var said strings.Builder
	cmd.Stderr = &said
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s", args[0], err, said.String())
	}
	return time.Since(begun), residentOf(cmd.ProcessState)
}
