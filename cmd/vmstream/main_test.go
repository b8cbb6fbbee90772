// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// TestMain makes this binary the vmstream that scripts and tests find in PATH,
// also by the names of the classic tools and of Amanda's application, and the plugin
// of tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == oddName {
		serveOdd()
		return
	}
	commands := map[string]func(){}
	for _, name := range []string{"vmstream", "vmsnap", "vmsnap.pl", "vmres", "vmres.pl", "addredo", "addredo.pl", "vmkfstools", "amvmstream"} {
		commands[name] = main
	}
	testscript.Main(m, commands)
}

// TestScript runs the scripts of testdata/script, which has these commands
// beside the standard ones:
//
//	exits CODE PROGRAM [ARG...]     run it, compare the exit code
//	mkdisk FILE SIZE                make a raw disk: random, text, zeros, holes
//	sha256 FILE DIGEST              compare a file's digest
//	flip FILE OFFSET                invert a byte; a negative offset is from the end
//	events FILE TYPE [FIELD...]     all lines are events, one has the type and these fields
//	result FILE [FIELD...]          all lines are JSON objects with these fields
//	unpack FILE.zst FILE            decompress, with holes where there are zeros
//
// and the condition tool:PROGRAM, which fails where nothing may be missing.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "mkdisk": cmdMkdisk, "flip": cmdFlip, "events": cmdEvents, "result": cmdResult, "sha256": cmdSHA256, "unpack": cmdUnpack,
		},
		Condition: condition,
		Setup: func(e *testscript.Env) error {
			root := os.Getenv("VMSTREAM_CORPUS")
			if root == "" {
				root = filepath.Join(testenv.Root(t), "..", "shared", "corpus")
			}
			e.Setenv("CORPUS", root)
			e.Setenv("LC_ALL", "C")
			return nil
		},
	})
}

func condition(cond string) (bool, error) {
	name, ok := strings.CutPrefix(cond, "tool:")
	if !ok {
		return condCorpus(cond)
	}
	_, err := exec.LookPath(name)
	if err != nil && testenv.Required() {
		return false, fmt.Errorf("needs the program %s, and VMSTREAM_REQUIRE_TOOLS=1", name)
	}
	return err == nil, nil
}

// condCorpus is the condition corpus: the images are there.
func condCorpus(cond string) (bool, error) {
	if cond != "corpus" {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	root := os.Getenv("VMSTREAM_CORPUS")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "corpus")
	}
	_, err := os.Stat(filepath.Join(root, "vmdk"))
	if err != nil && testenv.Required() {
		return false, fmt.Errorf("needs the corpus in %s, and VMSTREAM_REQUIRE_TOOLS=1", root)
	}
	return err == nil, nil
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdSHA256(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sha256 FILE DIGEST")
	}
	sum := sha256.Sum256([]byte(ts.ReadFile(args[0])))
	if got := hex.EncodeToString(sum[:]); got != args[1] {
		ts.Fatalf("%s has the digest %s", args[0], got)
	}
}

func cmdUnpack(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: unpack FILE.zst FILE")
	}
	ts.Check(unpack(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

func unpackImage(t *testing.T, from, to string) {
	t.Helper()
	if err := unpack(from, to); err != nil {
		t.Fatal(err)
	}
}

// unpack makes a sparse file of a compressed image.
func unpack(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		return err
	}
	defer z.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	size := int64(0)
	for {
		n, err := io.ReadFull(z, buf)
		if !disk.IsZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return errors.Join(err, out.Close())
			}
		}
		switch size += int64(n); {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return errors.Join(out.Truncate(size), out.Close())
		case err != nil:
			return errors.Join(err, out.Close())
		}
	}
}

func cmdMkdisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mkdisk FILE SIZE")
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(makeDisk(ts.MkAbs(args[0]), size))
}

// makeDisk writes a raw disk of size bytes: in turn 192 KiB of random bytes,
// 128 KiB of text, 128 KiB of zeros and a hole of 192 KiB. Its last bytes are data.
func makeDisk(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	rng := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), 7})
	random := make([]byte, 192<<10)
	text := bytes.Repeat([]byte("a line of text, and another one.\n"), 4<<10)[:128<<10]
	at := int64(0)
	for err == nil && at < size {
		_, _ = rng.Read(random) // never fails
		for _, b := range [][]byte{random, text, make([]byte, 128<<10)} {
			if at < size && err == nil {
				_, err = f.WriteAt(b[:min(int64(len(b)), size-at)], at)
				at += int64(len(b))
			}
		}
		at += 192 << 10
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.WriteAt([]byte("end"), size-3)
	}
	return errors.Join(err, f.Close())
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	if off < 0 {
		end, err := f.Seek(0, io.SeekEnd)
		ts.Check(err)
		off += end
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	ts.Check(err)
	b[0] ^= 0xff
	_, err = f.WriteAt(b[:], off)
	ts.Check(err)
}

// objects parses a file of one JSON object a line.
func objects(ts *testscript.TestScript, name string) []map[string]any {
	var all []map[string]any
	for line := range strings.Lines(ts.ReadFile(name)) {
		o := map[string]any{}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			ts.Fatalf("%s: %q: %v", name, line, err)
		}
		all = append(all, o)
	}
	return all
}

func cmdEvents(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: events FILE TYPE [FIELD...]")
	}
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if !strings.HasPrefix(line, `{"type":"`) {
			ts.Fatalf("%q: an event begins with its type", line)
		}
	}
	found := false
	for _, o := range objects(ts, args[0]) {
		if _, ok := o["time"]; !ok {
			ts.Fatalf("%v: no time", o)
		}
		if o["type"] == args[1] {
			found = true
			requireFields(ts, o, args[2:])
		}
	}
	if found == neg {
		ts.Fatalf("event %q: found is %v", args[1], found)
	}
}

func cmdResult(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: result FILE [FIELD...]")
	}
	all := objects(ts, args[0])
	if len(all) == 0 {
		ts.Fatalf("%s: no result", args[0])
	}
	for _, o := range all {
		requireFields(ts, o, args[1:])
	}
}

func requireFields(ts *testscript.TestScript, o map[string]any, fields []string) {
	for _, f := range fields {
		if _, ok := o[f]; !ok {
			ts.Fatalf("%v: no field %q", o, f)
		}
	}
}
