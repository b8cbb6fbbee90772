// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// Driver returns the driver of tape targets.
func Driver() sinks.Driver { return driver{} }

type driver struct{}

const (
	defaultBlock  = 256 << 10
	defaultBuffer = 64 << 20
	defaultWait   = 30 * time.Minute
)

var targetOptions = []sinks.Option{
	{Name: "key", Usage: "name of the stream; default: that of the VM"},
	{Name: "file", Usage: "read the stream that is this tape file, as mt fsf counts"},
	{Name: "id", Usage: "read the newest stream of the backup with this id"},
	{Name: "block", Usage: "length of blocks on a new tape, 512 to 8M", Default: "256K"},
	{Name: "fixed", Usage: "1: fixed blocks on a new tape, padded at the end of a stream", Default: "0"},
	{Name: "label", Usage: "name of the set of a new tape", Default: "vmstream"},
	{Name: "relabel", Usage: "1: begin a new set on this tape, whatever is on it", Default: "0"},
	{Name: "capacity", Usage: "bytes after which a volume is full; default: when the drive says so"},
	{Name: "buffer", Usage: "memory that keeps the drive going", Default: "64M"},
	{Name: "change", Usage: "command that puts the next volume in; default: wait until somebody does"},
	{Name: "wait", Usage: "how long to wait for a tape; 0: not at all", Default: "30m"},
}

// capabilities: nothing is removed from a tape but all of it. What was never committed
// has no trailer and is written over, so there are no orphans.
var capabilities = sinks.Capabilities{Read: true, Stat: true, List: true, Atomic: true, Exclusive: true}

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: "tape", Summary: "a tape drive of Linux, or a directory as a virtual one",
		Form: "tape:/dev/nst0", Options: targetOptions,
		Environment:  []string{"PATH", "HOME", "LANG", "LC_*", "CHANGER"},
		Capabilities: capabilities,
	}
}

func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	o, err := parse(t)
	if err != nil {
		return nil, "", fmt.Errorf("tape target: %w: %w", err, sinks.ErrTarget)
	}
	if _, err := os.Stat(o.path); err != nil { // before anything is read for a drive that is not there
		return nil, "", fmt.Errorf("tape: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return newSink(o, log), o.key, nil
}

// options are what a target says.
type options struct {
	path     string
	key      string
	block    int
	fixed    bool
	label    string
	relabel  bool
	capacity int64 // 0: what the drive says
	buffer   int64
	change   string
	wait     time.Duration
	poll     time.Duration // between looks for a tape
	faults   *faults       // of a virtual drive, for tests
}

// parse takes a target apart.
func parse(t sinks.Target) (*options, error) {
	escaped, query, _ := strings.Cut(t.Rest, "?")
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, err
	}
	if path == "" || strings.ContainsFunc(path, isControl) || strings.HasPrefix(path, "//") {
		return nil, fmt.Errorf("%q: write tape:/dev/nst0", path)
	}
	given, err := sinks.ParseOptions(t.Scheme, query, targetOptions)
	if err != nil {
		return nil, err
	}
	o := &options{path: path, label: cmp.Or(given["label"], "vmstream"), change: given["change"], poll: time.Second}
	if o.key, err = parseKey(given); err != nil {
		return nil, err
	}
	if err := o.parseNumbers(given); err != nil {
		return nil, err
	}
	if len(o.label) > maxName || strings.ContainsRune(o.change, 0) {
		return nil, fmt.Errorf("label or change: too long, or with a zero byte")
	}
	return o, nil
}

// Forms of keys that are no names, but say which stream is to be read.
const (
	fileForm = "file="
	idForm   = "id="
)

func parseKey(given map[string]string) (string, error) {
	key, n := "", 0
	for _, name := range []string{"key", "file", "id"} {
		v, ok := given[name]
		switch {
		case !ok:
			continue
		case v == "" || strings.ContainsFunc(v, isControl):
			return "", fmt.Errorf("%s=%q: it is empty, or has control characters", name, v)
		case name == "key":
			key = v
			if err := checkKey(strings.TrimSuffix(v, "/")); err != nil {
				return "", err
			}
		default:
			key = name + "=" + v
		}
		n++
	}
	if n > 1 {
		return "", fmt.Errorf("key, file and id: one of them")
	}
	if v, ok := given["file"]; ok {
		if _, err := parseFile(v); err != nil {
			return "", err
		}
	}
	return key, nil
}

// parseFile reads the number of a tape file.
func parseFile(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1<<30 {
		return 0, fmt.Errorf("file=%s: write a number, as mt fsf counts", s)
	}
	return n, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }

// checkKey refuses keys that a directory cannot have.
func checkKey(key string) error {
	switch {
	case key == "" || len(key) > maxName:
		return fmt.Errorf("key of %d bytes: from 1 to %d", len(key), maxName)
	case strings.ContainsFunc(key, isControl):
		return fmt.Errorf("key %q has control characters, or is not UTF-8", key)
	case strings.HasPrefix(key, fileForm), strings.HasPrefix(key, idForm):
		return fmt.Errorf("key %q has the form of an option", key)
	}
	return nil
}

func (o *options) parseNumbers(given map[string]string) error {
	var err error
	number := func(name string, fallback, least, most int64) int64 {
		v, ok := given[name]
		if !ok {
			return fallback
		}
		n, nerr := parseSize(v)
		if nerr != nil || n < least || n > most {
			err = cmp.Or(err, fmt.Errorf("%s=%s: write a length from %d to %d, such as 64K or 2G", name, v, least, most))
		}
		return n
	}
	flag := func(name string) bool {
		v := given[name]
		if v != "" && v != "0" && v != "1" {
			err = cmp.Or(err, fmt.Errorf("%s=%s: write 0 or 1", name, v))
		}
		return v == "1"
	}
	o.block = int(number("block", defaultBlock, minBlock, maxBlock))
	o.buffer = number("buffer", defaultBuffer, 1<<20, 1<<36)
	o.capacity = number("capacity", 0, 1<<20, 1<<62)
	o.fixed, o.relabel = flag("fixed"), flag("relabel")
	if err == nil && !goodBlock(o.block) {
		err = fmt.Errorf("block=%s: write a multiple of 512", given["block"])
	}
	o.wait = defaultWait
	if v, ok := given["wait"]; ok && err == nil {
		if o.wait, err = time.ParseDuration(v); err != nil || o.wait < 0 {
			err = fmt.Errorf("wait=%s: write it as 90s or 10m", v)
		}
	}
	return err
}

// parseSize reads a number of bytes with K, M, G or T behind it.
func parseSize(v string) (int64, error) {
	digits, shift := v, 0
	if v != "" {
		if i := strings.IndexByte("KMGT", v[len(v)-1]); i >= 0 {
			digits, shift = v[:len(v)-1], (i+1)*10
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%s is no length", v)
	}
	return n << shift, nil
}
