// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package integrate

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseAmanda(t *testing.T) {
	want := &AmandaCall{
		Command: "backup", Config: "daily", Host: "h", Disk: "vm1", Device: "/vms/vm1", Level: 1, Message: "line", Index: "line",
		Record: true, VM: "/vms/web01", StateDir: "/s", Options: []string{"--codec=zstd", "--track"}, Unknown: []string{"vn"},
	}
	for _, line := range []string{
		"backup --message line --config daily --host h --disk vm1 --device /vms/vm1 --level 1 --index line --record --vm /vms/web01 --state-dir /s --option --codec=zstd --option --track --vn x",
		"backup --state_dir=/s --option=--codec=zstd --vm=/vms/web01 --option=--track --record --message=line --config=daily --host=h --disk=vm1 --device=/vms/vm1 --level=1 --index=line --vn=x",
		"backup --record --message=line --config=daily --host=h --disk=vm1 --device=/vms/vm1 --calcsize --level=1 --index=line --timestamp 1 --vn=x --state-dir /s --option --codec=zstd --option --track --vm /vms/web01 ./file",
	} {
		got, err := ParseAmanda(strings.Fields(line))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v, %v\nwant\n%+v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "backup --level x", "backup --level=-1", "backup --level 10", "backup --level"} {
		if got, err := ParseAmanda(strings.Fields(line)); err == nil {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestAmandaSource(t *testing.T) {
	for _, c := range []struct {
		call AmandaCall
		want string
	}{
		{AmandaCall{VM: "a", Device: "b", Disk: "c"}, "a"},
		{AmandaCall{Device: "b", Disk: "c"}, "b"},
		{AmandaCall{Disk: "c"}, "c"},
	} {
		if got := c.call.Source(); got != c.want {
			t.Errorf("%+v: %q", c.call, got)
		}
	}
}

// Levels are those of dump: one is on the last dump of a lower level.
func TestAmandaLevels(t *testing.T) {
	l, err := OpenAmandaLevels(&AmandaCall{StateDir: t.TempDir(), Config: "daily", Host: "h", Disk: "/vms/web 01"})
	if err != nil {
		t.Fatal(err)
	}
	dump := func(level int) {
		next, err := l.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(next, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Record(level); err != nil {
			t.Fatal(err)
		}
	}
	parent := func(level int, want string) {
		t.Helper()
		got := l.Parent(level)
		if got != "" {
			got = filepath.Base(got)
		}
		if got != want {
			t.Errorf("level %d is on %q, want %q", level, got, want)
		}
	}
	parent(0, "")
	parent(1, "")
	dump(0)
	parent(0, "")
	parent(1, "level-0.index")
	parent(2, "level-0.index")
	dump(1)
	dump(2)
	parent(3, "level-2.index")
	parent(1, "level-0.index")
	dump(1)
	parent(3, "level-1.index") // level 2 was before
	if _, err := l.Begin(); err != nil {
		t.Fatal(err)
	}
	l.Forget()
	dump(0)
	parent(9, "level-0.index")
}

func TestAmandaLevelsRefuses(t *testing.T) {
	for _, c := range []AmandaCall{{}, {Config: "..", Host: "h", Disk: "d"}, {Config: "c", Host: ".", Disk: "d"}, {Config: "c", Host: "h", Disk: strings.Repeat("d", 300)}} {
		if _, err := OpenAmandaLevels(&c); err == nil {
			t.Errorf("%+v has levels", c)
		}
	}
}

func FuzzParseAmanda(f *testing.F) {
	f.Add("backup --level 1 --record --option=--track")
	f.Add("restore --target /x --level=0 file")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseAmanda(strings.Split(line, " "))
		if err == nil && (c.Level < 0 || c.Level > MaxAmandaLevel) {
			t.Errorf("%q: level %d", line, c.Level)
		}
	})
}
