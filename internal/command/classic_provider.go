// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/process"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// hostTool is what ESX 2.x works on running VMs with.
const hostTool = "vmware-cmd"

// choose decides what puts redo logs over the disks. A VM that is running needs
// the tools of its host: those of ESX 2.x are used if they are there.
func (s *vmsnap) choose(ctx context.Context, m *vm.VM) error {
	preset := s.exec
	if preset == "" && !s.allowInUse && m.RawDisks && s.running(ctx, m) {
		preset = "esx2"
	}
	if preset == "" {
		s.provider = snapshot.Redo{}
		return nil
	}
	if s.commit {
		return cli.Source(errors.New("-r: redo logs are committed while the VM is powered off"))
	}
	f := execFlags{preset: preset, timeout: snapshot.DefaultExecTimeout}
	p, err := f.provider(s.log.a, false)
	s.provider, s.onHost = p, true
	s.log.say("Redo logs are added by the tools of the host: %s", preset)
	return err
}

// running reports if a VM of ESX 2.x is running and its host's tool is there.
func (s *vmsnap) running(ctx context.Context, m *vm.VM) bool {
	if _, err := exec.LookPath(hostTool); err != nil {
		return false
	}
	c := &process.Command{Argv: []string{hostTool, m.Path, "getstate"}, Timeout: time.Minute, KeepBytes: 4096}
	out, err := c.Run(ctx)
	if err != nil {
		s.log.detail("%v", err)
		return len(m.InUse) > 0
	}
	return bytes.Contains(out, []byte("= on"))
}

// checkExec refuses an unknown kind of host.
func (o *vmsnapOptions) checkExec() error {
	if _, ok := snapshot.ExecPreset(o.exec, false); !ok && o.exec != "" {
		return cli.Usage(fmt.Errorf("--exec %q: esx2 or esxi", o.exec))
	}
	return nil
}
