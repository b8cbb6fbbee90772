// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
)

const envStandIn = "VMSTREAM_TEST_STANDIN"

// TestMain makes this binary the host's tools where the environment says so.
func TestMain(m *testing.M) {
	if config := os.Getenv(envStandIn); config != "" {
		if err := (&standIn{config: config}).run(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn plays vmware-cmd and vim-cmd for one machine, with real redo logs. A
// file "fault" beside the configuration says what goes wrong: the command, a
// colon, and one of fail-before, fail-after, hang-before, hang-after, nothing,
// partial, garbage.
type standIn struct {
	config string
	fault  string
}

func (s *standIn) file(name string) string { return filepath.Join(filepath.Dir(s.config), name) }

func (s *standIn) run(args []string) error {
	verb, args := args[0], args[1:]
	if verb == s.config { // vmware-cmd CONFIG VERB
		verb, args = args[0], args[1:]
	}
	if b, err := os.ReadFile(s.file("fault")); err == nil {
		if on, what, _ := strings.Cut(string(b), ":"); on == verb {
			s.fault = what
		}
	}
	switch s.fault {
	case "fail-before":
		return errors.New("it is broken")
	case "hang-before":
		time.Sleep(time.Minute)
	case "nothing":
		return nil
	case "garbage":
		fmt.Print("\x00\xff: : :\n[[]\n7 [x] ../../a.vmx\n----Snapshot Id : ; rm -rf /\n")
		return nil
	}
	if err := s.do(verb, args); err != nil {
		return err
	}
	switch s.fault {
	case "fail-after":
		return errors.New("it is broken now")
	case "hang-after":
		time.Sleep(time.Minute)
	}
	return nil
}

func (s *standIn) do(verb string, args []string) error {
	switch verb {
	case "addredo":
		if s.fault == "partial" && args[0] == "scsi0:1" {
			return errors.New("no more of it")
		}
		return s.add(args[0])
	case "commit":
		if s.fault == "partial" && args[0] == "scsi0:1" {
			return errors.New("no more of it")
		}
		level, err := strconv.Atoi(args[1])
		if err != nil || len(args) != 4 || args[2] != "0" || args[3] != "1" {
			return fmt.Errorf("commit %q", args)
		}
		return s.commit(args[0], level)
	case "vmsvc/getallvms":
		fmt.Printf("Vmid  Name  File  Guest OS  Version  Annotation\n3   other   [ds 1] other/other.vmx  otherGuest vmx-08\n")
		fmt.Printf("12   a g   [ds 1] %s/%s   otherGuest vmx-08  a [note] x/y.vmx\n", filepath.Base(filepath.Dir(s.config)), filepath.Base(s.config))
		return nil
	case "vmsvc/snapshot.create":
		if args[0] != "12" || len(args) != 5 {
			return fmt.Errorf("create %q", args)
		}
		if err := os.WriteFile(s.file("snapshots"), []byte(args[1]), 0o600); err != nil {
			return err
		}
		return s.all(s.add)
	case "vmsvc/snapshot.get":
		fmt.Printf("Get Snapshot:\n|-ROOT\n--Snapshot Name        : before\n--Snapshot Id        : 1\n")
		if b, err := os.ReadFile(s.file("snapshots")); err == nil {
			fmt.Printf("--|-CHILD\n----Snapshot Name        : %s\n----Snapshot Id        : 7\n----Snapshot State       : powered on\n", b)
		}
		return nil
	case "vmsvc/snapshot.remove":
		if strings.Join(args, " ") != "12 7" {
			return fmt.Errorf("remove %q", args)
		}
		if err := s.all(func(key string) error { return s.commit(key, 0) }); err != nil || s.fault == "partial" {
			return err
		}
		return os.Remove(s.file("snapshots"))
	}
	return fmt.Errorf("command %q", verb)
}

func (s *standIn) all(do func(key string) error) error {
	for _, key := range []string{"scsi0:0", "scsi0:1"} {
		if s.fault == "partial" && key == "scsi0:1" {
			return nil
		}
		if err := do(key); err != nil {
			return err
		}
	}
	return nil
}

func (s *standIn) disk(key string) (string, redo.Options, error) {
	m, err := vm.Load(s.config, vm.LoadOptions{})
	if err != nil {
		return "", redo.Options{}, err
	}
	for i := range m.Disks {
		if d := &m.Disks[i]; d.Key == key {
			return d.Path, m.RedoOptions(d, redo.Options{AllowInUse: true}), nil
		}
	}
	return "", redo.Options{}, errNoDisk
}

func (s *standIn) add(key string) error {
	path, o, err := s.disk(key)
	if err == nil {
		_, err = redo.Add(context.Background(), path, redo.AddOptions{Options: o})
	}
	return err
}

// commit merges a level, counted from the top.
func (s *standIn) commit(key string, fromTop int) error {
	path, o, err := s.disk(key)
	if err != nil {
		return err
	}
	c, err := redo.List(context.Background(), path, o)
	if err != nil {
		return err
	}
	level := len(c.Levels) - 1 - fromTop
	if level < 1 {
		return nil // vmware-cmd says nothing either
	}
	_, err = redo.Commit(context.Background(), c.Path, redo.CommitOptions{Options: o, Level: level})
	return err
}

// exec returns a provider with the preset's commands, which the stand-in runs.
func (g *guest) exec() *Exec {
	preset := "esxi"
	if g.esx2 {
		preset = "esx2"
	}
	c, ok := ExecPreset(preset, false)
	if !ok {
		g.t.Fatal("no preset")
	}
	self, err := os.Executable()
	g.must(err)
	for _, t := range []*Template{&c.Create, &c.Remove, &c.Machines, &c.List} {
		if *t != "" {
			_, rest, _ := strings.Cut(string(*t), " ")
			*t = Template(fmt.Sprintf("env '%s=%s' '%s' %s", envStandIn, g.vmx, self, rest))
		}
	}
	c.Timeout = 2 * time.Second
	return &Exec{ExecCommands: c, Line: func(s string) { g.t.Logf("tool: %s", s) }, coming: -1}
}

func (g *guest) setFault(f string) {
	g.must(os.WriteFile(filepath.Join(filepath.Dir(g.vmx), "fault"), []byte(f), 0o600))
}
