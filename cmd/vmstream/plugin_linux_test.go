// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/internal/testenv"
)

// eventually fails the test if a condition does not come true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 2 minutes", what)
		}
	}
}

// childNamed returns the one child of a process in whose command line there is a name;
// 0 if there is none.
func childNamed(pid int, name string) int {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		parent, _ := statOf(dir)
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if parent == pid && bytes.Contains(line, []byte(name)) {
			child, _ := strconv.Atoi(filepath.Base(dir))
			return child
		}
	}
	return 0
}

// statOf returns the parent and the state of the process that a directory of /proc
// is of; zero if it has gone.
func statOf(dir string) (parent int, state string) {
	b, _ := os.ReadFile(filepath.Join(dir, "stat"))
	_, behind, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(behind)
	if len(f) < 2 {
		return 0, ""
	}
	parent, _ = strconv.Atoi(f[1])
	return parent, f[0]
}

func hasGone(pid int) bool {
	_, state := statOf("/proc/" + strconv.Itoa(pid))
	return state == "" || state == "Z" || state == "X" // nobody may be there to wait for it
}

// slowPlugin starts a backup into a directory that takes long, in a process group of
// its own, and waits until its plugin has begun.
func slowPlugin(t *testing.T, out string) (c *exec.Cmd, plugin int) {
	t.Helper()
	c = vmstream(t, "backup", "-q", "--limit-rate", "200K/s", "--to", "file:"+out+"/a.tar", testDisk(t))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the backup begins", func() bool { return len(names(t, out)) > 0 })
	plugin = childNamed(c.Process.Pid, "plugin-serve\x00file")
	if plugin == 0 {
		t.Error("there is no process of a plugin")
	}
	return c, plugin
}

// TestPluginAndSignals stops a backup as Ctrl-C on a terminal does, which signals all
// of a process group: the plugin is there until it has cleaned up.
func TestPluginAndSignals(t *testing.T) {
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(sig.String(), func(t *testing.T) {
			notIgnored(t, sig)
			out := t.TempDir()
			c, plugin := slowPlugin(t, out)
			if err := syscall.Kill(-c.Process.Pid, sig); err != nil {
				t.Fatal(err)
			}
			if got := exitCode(t, c.Wait()); got != code {
				t.Errorf("exit code %d, want %d\n%s", got, code, c.Stderr)
			}
			if left := names(t, out); len(left) > 0 {
				t.Errorf("%q is left", left)
			}
			if !hasGone(plugin) {
				t.Error("the plugin is still there")
			}
		})
	}
}

// TestPluginDiesWithUs kills the program: the plugin does not outlive it.
func TestPluginDiesWithUs(t *testing.T) {
	out := t.TempDir()
	c, plugin := slowPlugin(t, out)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	eventually(t, "the plugin ends", func() bool { return hasGone(plugin) })
	for _, name := range names(t, out) {
		if name == "a.tar" {
			t.Error("half an object is there")
		}
	}
}

// TestPluginKilled kills the plugin.
func TestPluginKilled(t *testing.T) {
	out := t.TempDir()
	c, plugin := slowPlugin(t, out)
	if err := syscall.Kill(plugin, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 6 {
		t.Errorf("exit code %d", code)
	}
	wantMessage(t, c.Stderr, "its process has gone: it has ended: signal: killed")
	for _, name := range names(t, out) {
		if name == "a.tar" {
			t.Error("half an object is there")
		}
	}
}

// TestPluginLeavesStdin has data on stdin, which is ours and no plugin's.
func TestPluginLeavesStdin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VMSTREAM_PLUGIN_DIR", pluginDir(t))
	data := bytes.Repeat([]byte("stdin\n"), 1<<15)
	c := exec.CommandContext(t.Context(), "sh", "-c", `vmstream sink ls "file:$0/" && vmstream sink ls "odd:good:$0/" && vmstream sink list -q >/dev/null && cat`, dir)
	c.Stdin = bytes.NewReader(data)
	out, err := c.Output()
	if err != nil || !bytes.Equal(out, data) {
		t.Errorf("%v: %d bytes are left of %d", err, len(out), len(data))
	}
	disk := filepath.Join(dir, "d.raw")
	if err := makeDisk(disk, 1<<20); err != nil {
		t.Fatal(err)
	}
	full := vmstream(t, "backup", "-q", "--track", "--id", "full", disk)
	stream, err := full.Output()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "full.tar"), stream, 0o600)
	}
	if err == nil {
		err = vmstream(t, "backup", "-q", "--since", filepath.Join(dir, "full.tar"), "--to", filepath.Join(dir, "inc.tar"), disk).Run()
	}
	if err != nil {
		t.Fatal(err)
	}
	m := vmstream(t, "merge", "-q", "--to", "odd:good:"+dir+"/m.tar", "-", "file:"+dir+"/inc.tar")
	m.Stdin = bytes.NewReader(stream)
	if err := m.Run(); err != nil {
		t.Errorf("%v\n%s", err, m.Stderr)
	}
}

// The secrets of a run, where they may be.
const (
	secretKey   = "sEcReT0key0of0the0environment"
	secretToken = "sEcReT0token0of0the0environment"
	secretOther = "sEcReT0of0another0program"
	secretMark  = "sEcReT"
)

// look returns what the command lines of all processes have of secrets, and which of
// our processes see one in their environment.
func look() (lines, environments []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if bytes.Contains(line, []byte(secretMark)) {
			lines = append(lines, string(line))
		}
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if bytes.Contains(env, []byte(secretMark)) && bytes.HasPrefix(line, []byte("vmstream\x00plugin-serve\x00")) {
			environments = append(environments, fmt.Sprintf("%q sees %q", line, env))
		}
	}
	return lines, environments
}

// TestSecrets backs up with credentials in the environment and in a file: they are in
// no command line, message, event or stream, and no plugin sees those of another.
func TestSecrets(t *testing.T) {
	var mu sync.Mutex
	var lines, environments, requests []string
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l, e := look()
		mu.Lock()
		lines, environments = append(lines, l...), append(environments, e...)
		requests = append(requests, r.Header.Get("Authorization"))
		mu.Unlock()
		w.WriteHeader(http.StatusForbidden)
		// A server that says what it was sent.
		fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>%v %s</Message></Error>", r.Header, r.URL)
	}))
	defer refuses.Close()
	dir := t.TempDir()
	disk := filepath.Join(dir, "d.raw")
	if err := makeDisk(disk, 1<<20); err != nil {
		t.Fatal(err)
	}
	credentials := filepath.Join(dir, "credentials")
	if err := os.WriteFile(credentials, []byte("[default]\naws_access_key_id = AKID\naws_secret_access_key = "+secretKey+"\naws_session_token = "+secretToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := [][]string{
		{"AWS_ACCESS_KEY_ID=AKID", "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_SESSION_TOKEN=" + secretToken},
		{"AWS_SHARED_CREDENTIALS_FILE=" + credentials},
	}
	for i, env := range environment {
		for _, flags := range [][]string{{"-v"}, {"-v", "--json"}} {
			stored := filepath.Join(dir, fmt.Sprintf("stored-%d-%d", i, len(flags)))
			args := append([]string{
				"backup", "--to", "-", "--to", "exec:cat /proc/[0-9]*/cmdline >" + stored + ".argv; cat >" + stored, "--to", "file:" + stored + ".tar",
				"--to-optional", "s3://bucket/a.tar?endpoint=" + refuses.URL + "&region=us-east-1",
			}, flags...)
			c := vmstream(t, append(args, disk)...)
			c.Env = append(os.Environ(), "VMSTREAM_OTHER="+secretOther)
			c.Env = append(c.Env, env...)
			out, err := c.Output()
			if code := exitCode(t, err); code != 3 {
				t.Errorf("exit code %d\n%s", code, c.Stderr)
			}
			stderr := c.Stderr.(*bytes.Buffer).Bytes()
			if !bytes.Contains(stderr, []byte("not stored in s3://bucket/a.tar")) {
				t.Errorf("stderr: %s", stderr)
			}
			for what, b := range map[string][]byte{"stderr": stderr, "the stream": out, "what was stored": content(t, stored), "a command line": content(t, stored+".argv")} {
				if at := bytes.Index(b, []byte(secretMark)); at >= 0 {
					t.Errorf("%s has a secret: %.200q", what, b[at:])
				}
			}
		}
	}
	if len(lines) > 0 {
		t.Errorf("in command lines: %q", lines)
	}
	if len(requests) == 0 {
		t.Error("nobody has asked the server")
	}
	for _, r := range requests {
		if !strings.Contains(r, "Credential=AKID/") || strings.Contains(r, secretMark) {
			t.Errorf("Authorization: %q", r)
		}
	}
	if len(environments) == 0 {
		t.Error("no plugin was looked at")
	}
	for _, e := range environments {
		command := strings.HasPrefix(e, `"vmstream\x00plugin-serve\x00exec\x00"`) // it asks for all
		own := strings.HasPrefix(e, `"vmstream\x00plugin-serve\x00s3\x00"`) && !strings.Contains(e, secretOther)
		if !command && !own {
			t.Error(e)
		}
	}
}

// TestStoredSecrets stores on a real server and reads from there: the credentials are in
// nothing that is seen or stored.
func TestStoredSecrets(t *testing.T) {
	testenv.Long(t)
	server := s3lab.VersityGW(t)
	s3lab.Login(t)
	dir := t.TempDir()
	disk, argv := testDisk(t), filepath.Join(dir, "argv")
	at := "s3://" + server.Bucket(t, false) + "/a.tar?endpoint=http://" + server.Endpoint + "&region=" + s3lab.Region + "&path-style=1"
	for _, args := range [][]string{
		{"backup", "--to", at, "--to", "exec:cat /proc/[0-9]*/cmdline >" + argv + "; cat >" + os.DevNull, "--to", "file:" + dir + "/copy.tar", disk},
		{"restore", "--from", at, "--to", filepath.Join(dir, "r.raw")},
		{"sink", "ls", at},
		{"sink", "describe", "s3"},
	} {
		c := vmstream(t, append(args, "-v", "--json")...)
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, c.Stderr)
		}
		for _, secret := range []string{s3lab.SecretKey, s3lab.AccessKey} {
			if bytes.Contains(append(out, c.Stderr.(*bytes.Buffer).Bytes()...), []byte(secret)) {
				t.Errorf("%v: a secret: %s%s", args, out, c.Stderr)
			}
		}
	}
	sameContent(t, disk, filepath.Join(dir, "r.raw"))
	for _, path := range []string{argv, filepath.Join(dir, "copy.tar")} {
		if bytes.Contains(content(t, path), []byte(s3lab.SecretKey)) {
			t.Errorf("%s has a secret", path)
		}
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return b
}
