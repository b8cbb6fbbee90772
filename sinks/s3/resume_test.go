// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

// partLog notes which parts pass a proxy.
type partLog struct {
	mu    sync.Mutex
	sent  map[string]int // times that a part was answered well, by number
	tries int
}

func (l *partLog) watch(p *s3lab.Proxy) {
	l.sent = map[string]int{}
	p.After = func(kind string, _ int, resp *http.Response) error {
		if kind == "part" {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.tries++
			if resp.StatusCode == http.StatusOK {
				l.sent[resp.Request.URL.Query().Get("partNumber")]++
			}
		}
		return nil
	}
}

func (l *partLog) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, times := range l.sent {
		n += times
	}
	return n
}

func TestResume(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		content := noise(4, 23<<20) // four parts of 5 MiB and one of 3
		changed := bytes.Clone(content)
		changed[7<<20] ^= 1 // in the second part
		for _, c := range []struct {
			name, options string
			content       []byte
			send          int // parts
			left          int // uploads afterwards
		}{
			{"same content", "", content, 1, 0},
			{"changed content", "", changed, 2, 0},
			{"shorter", "", content[:12<<20], 1, 0},
			{"one request", "", content[:100], 0, 0},
			{"other plan", "part-size=6M&", content, 4, 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				bucket := server.Bucket(t, false)
				p := s3lab.NewProxy(t, server)
				var log partLog
				log.watch(p)
				interrupt(t, open(t, p.Address, bucket, "part-size=5M&parallel=2"), content)
				if n := log.total(); n != 4 {
					t.Fatalf("%d parts were sent", n)
				}
				if c.options == "" {
					c.options = "part-size=5M&"
				}
				s := open(t, p.Address, bucket, c.options+"parallel=2")
				if _, err := store(t.Context(), s, "dir/k", c.content, sinks.CreateOptions{Resume: true}); err != nil {
					t.Fatal(err)
				}
				has(t, server, bucket, "dir/k", c.content)
				if n := log.total() - 4; n != c.send {
					t.Errorf("%d parts were sent, not %d", n, c.send)
				}
				if n := uploadsLeft(t, server, bucket); n != c.left {
					t.Errorf("%d uploads are left", n)
				}
			})
		}
	})
}

// TestResumeBegun goes on with an upload that has no part yet.
func TestResumeBegun(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, false)
		s := open(t, server.Endpoint, bucket, "part-size=5M")
		core := minio.Core{Client: server.Client()}
		id, err := core.NewMultipartUpload(t.Context(), bucket, "k", minio.PutObjectOptions{Checksum: minio.ChecksumCRC32C})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create(t.Context(), "k", sinks.CreateOptions{Resume: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.(*writer).upload; got != id {
			t.Errorf("goes on with %q, not %q", got, id)
		}
		if err := w.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		content := noise(8, 7<<20)
		if _, err := store(t.Context(), s, "k", content, sinks.CreateOptions{Resume: true}); err != nil {
			t.Error(err)
		}
		has(t, server, bucket, "k", content)
		if n := uploadsLeft(t, server, bucket); n != 0 {
			t.Errorf("%d uploads are left", n)
		}
	})
}

// interrupt writes four parts and a piece of dir/k and gives up.
func interrupt(t *testing.T, s *sink, content []byte) {
	t.Helper()
	w, err := s.Create(t.Context(), "dir/k", sinks.CreateOptions{Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	w.(*writer).sending.Wait()
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOrphans(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, false)
		s := open(t, server.Endpoint, bucket, "part-size=5M&parallel=2")
		interrupt(t, s, noise(4, 23<<20))
		for prefix, want := range map[string]int{"": 1, "dir/": 1, "di": 1, "dir/k": 1, "other": 0} {
			n := 0
			for o, err := range s.Orphans(t.Context(), prefix) {
				if err != nil {
					t.Fatal(err)
				}
				if o.Key != "dir/k" || o.SizeBytes != 20<<20 || time.Since(o.Begun).Abs() > time.Hour {
					t.Errorf("%+v", o)
				}
				n++
			}
			if n != want {
				t.Errorf("prefix %q has %d", prefix, n)
			}
		}
		for o := range s.Orphans(t.Context(), "") {
			if err := s.RemoveOrphan(t.Context(), o); err != nil {
				t.Error(err)
			}
			// MinIO is content with an upload that is not there.
			if err := s.RemoveOrphan(t.Context(), o); !errors.Is(err, sinks.ErrNotExist) && server.Name != "minio" {
				t.Errorf("removed again: %v", err)
			}
		}
		if n := uploadsLeft(t, server, bucket); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// childVariable is in a child's environment what it stores, and where: address, bucket,
// options, bytes, and the bytes that it is told to expect.
const childVariable = "VMSTREAM_TEST_S3_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		if err := child(strings.Fields(spec)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stream is content that is the same at every run, without being kept.
func stream(size int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{5}), size) }

// child stores the stream under "k", going on with what earlier ones have left, and
// prints how much memory it has had.
func child(spec []string) error {
	if len(spec) != 5 {
		return errors.New("needs address, bucket, options, bytes, expected bytes")
	}
	size, err := strconv.ParseInt(spec[3], 10, 64)
	if err != nil {
		return err
	}
	hint, err := strconv.ParseInt(spec[4], 10, 64)
	if err != nil {
		return err
	}
	ctx := context.Background()
	target := sinks.Target{Scheme: scheme, Rest: "//" + spec[1] + "/k?path-style=1&endpoint=http://" + spec[0] + "&" + spec[2]}
	s, key, err := Driver().Open(ctx, target, nil)
	if err != nil {
		return err
	}
	w, err := s.Create(ctx, key, sinks.CreateOptions{Keep: true, Resume: true, SizeHintBytes: hint})
	if err != nil {
		return err
	}
	// Pieces are like those of a pipe.
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{stream(size)}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if _, err := w.Commit(ctx, sinks.End{SizeBytes: size}); err != nil {
		return err
	}
	peak, err := peakMemory()
	fmt.Println(peak)
	return errors.Join(err, s.Close())
}

// peakMemory returns the largest resident size of this process in bytes, 0 where the
// system does not tell it in this way.
func peakMemory() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no VmHWM")
}

func childCommand(t *testing.T, address, bucket, options string, size, hint int64) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d %d", childVariable, address, bucket, options, size, hint))
	return cmd
}

// TestKilled kills a process while it stores a stream, again and again, and starts it
// anew. At the end the object is the stream, and of the parts only those were sent
// twice that were on their way when it died.
func TestKilled(t *testing.T) {
	testenv.Long(t)
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) { testKilled(t, server, 96<<20, 4) })
}

func testKilled(t *testing.T, server *s3lab.Server, size int64, kills int) {
	const parallel, part = 2, 5 << 20
	bucket := server.Bucket(t, false)
	p := s3lab.NewProxy(t, server)
	var log partLog
	log.watch(p)
	options := "part-size=5M&parallel=2&equal-parts=1"
	count := int((size + part - 1) / part)
	killed := 0
	for killed < kills {
		cmd := childCommand(t, p.Address, bucket, options, size, 0)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// It dies when so many new parts have passed, not after some time.
		goal := min(log.total()+1+rand.N(max(count/kills-parallel, 1)), count-1)
		if !awaitParts(&log, goal, done) {
			t.Fatalf("the process ended before kill %d of %d, with %d of %d parts sent", killed+1, kills, log.total(), count)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-done
		killed++
		if _, err := server.Client().StatObject(t.Context(), bucket, "k", minio.StatObjectOptions{}); err == nil {
			t.Fatal("an object is there after a kill")
		}
	}
	before := log.total()
	if out, err := childCommand(t, p.Address, bucket, options, size, 0).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sum, want := sha256.New(), sha256.New()
	o, err := server.Client().GetObject(t.Context(), bucket, "k", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	n, err := io.Copy(sum, o)
	if err != nil || n != size {
		t.Fatalf("%d of %d bytes come back, %v", n, size, err)
	}
	if _, err := io.Copy(want, stream(size)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Error("the object is not what was written")
	}
	if again := log.total() - count; again > kills*(parallel+1) {
		t.Errorf("%d parts were sent again after %d kills", again, kills)
	}
	if n := uploadsLeft(t, server, bucket); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	t.Logf("%d parts, %d kills, %d parts passed in all, %d of them in the last run", count, kills, log.total(), log.total()-before)
}

// awaitParts returns true when so many parts have passed, false if the process ends.
func awaitParts(log *partLog, goal int, done <-chan error) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return false
		case <-tick.C:
			if log.total() >= goal {
				return true
			}
		}
	}
}

// TestMemory measures a process that sends parts as large as memory holds, and parts
// that are larger.
func TestMemory(t *testing.T) {
	testenv.Long(t)
	s3lab.Login(t)
	server := s3lab.VersityGW(t)
	for _, c := range []struct {
		name, options string
		size, hint    int64
	}{
		{"small parts", "parallel=16&part-size=5M", 300 << 20, 0},
		{"largest in memory", "parallel=4&part-size=80M", 300 << 20, 0},
		// 656 MiB each, the last of this one is short.
		{"equal parts of 5 TiB", "parallel=4&equal-parts=1", 700 << 20, 5 * tib},
		{"last parts of 5 TiB", "parallel=4&part-size=1G", 1100 << 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := server.Bucket(t, false)
			out, err := childCommand(t, server.Endpoint, bucket, c.options, c.size, c.hint).Output()
			if err != nil {
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					t.Fatalf("%v: %s", err, exit.Stderr)
				}
				t.Fatal(err)
			}
			peak, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if peak > 200<<20 {
				t.Errorf("%d MiB resident", peak>>20)
			}
			t.Logf("%d MiB resident at most, the whole test program with it", peak>>20)
		})
	}
}
