// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// shell runs a pipe and fails if any of its programs does.
func shell(t *testing.T, script string) string {
	t.Helper()
	return good(t, testenv.Tool(t, "bash"), "-c", "set -euo pipefail\n"+script)
}

// repository prepares the environment of a program that keeps backups.
func repository(t *testing.T) (m *machine, dir string) {
	t.Helper()
	enabled(t)
	dir = openDir(t)
	for name, value := range map[string]string{
		"PATH": filepath.Dir(program(t)) + ":" + os.Getenv("PATH"), "HOME": filepath.Join(dir, "home"), "D": dir,
		"RESTIC_PASSWORD": "lab", "BORG_BASE_DIR": filepath.Join(dir, "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
	} {
		t.Setenv(name, value)
	}
	must(t, os.Mkdir(filepath.Join(dir, "home"), 0o700))
	return newMachine(t, dir, "web01"), dir
}

func TestRestic(t *testing.T) {
	testenv.Tool(t, "restic")
	m, dir := repository(t)
	shell(t, `restic -q -r $D/repo init
vmstream -q backup $D/web01/web01.vmx | restic -q -r $D/repo backup --stdin --stdin-filename web01.tar
restic -q -r $D/repo dump latest web01.tar | vmstream restore -C $D/restored`)
	m.same(t, filepath.Join(dir, "restored"))
}

// borg takes the stream as a file, and its members as files of their own.
func TestBorg(t *testing.T) {
	testenv.Tool(t, "borg")
	m, dir := repository(t)
	shell(t, `borg init -e none $D/repo
vmstream -q backup $D/web01/web01.vmx > $D/web01.tar
borg create --stdin-name web01.tar $D/repo::stream - < $D/web01.tar
borg extract --stdout $D/repo::stream | vmstream restore -C $D/restored
borg import-tar $D/repo::members - < $D/web01.tar
borg export-tar $D/repo::members - | tar -xf - -C $D/home
cd $D/home/web01
sha256sum -c --quiet SHA256SUMS`)
	m.same(t, filepath.Join(dir, "restored"))
	m.same(t, filepath.Join(dir, "home"))
	if list := shell(t, "borg list --short $D/repo::members"); !strings.Contains(list, "web01/web01.vmdk\n") {
		t.Errorf("borg has\n%s", list)
	}
}

// borg can run the producer itself, and keeps nothing of one that fails.
func TestBorgProducer(t *testing.T) {
	testenv.Tool(t, "borg")
	_, dir := repository(t)
	shell(t, `borg init -e none $D/repo`)
	must(t, os.Truncate(filepath.Join(dir, "web01", "web01-flat.vmdk"), 1<<20))
	_, code := run(t, "", testenv.Tool(t, "bash"), "-c", `borg create --content-from-command --stdin-name web01.tar $D/repo::stream -- vmstream -q backup $D/web01/web01.vmx`)
	if code == 0 {
		t.Error("borg took it")
	}
	if list := shell(t, "borg list --short $D/repo"); list != "" {
		t.Errorf("borg has %s", list)
	}
}
