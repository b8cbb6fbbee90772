// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// registerPresets are commands that --register has names for.
var registerPresets = map[string]string{
	"vmware-cmd": `vmware-cmd -s register "$VMSTREAM_HOOK_CONFIG"`,
}

// tell runs the command that tells a product of the VM. Names reach it in its
// environment, so that no shell reads them.
func (r *vmres) tell(ctx context.Context) {
	command := r.register
	if preset, ok := registerPresets[command]; ok {
		command = preset
	}
	config := ""
	for _, p := range r.paths {
		switch strings.ToLower(filepath.Ext(p)) {
		case ".vmx", ".cfg":
			if config == "" {
				config = p
			}
		}
	}
	if abs, err := filepath.Abs(config); err == nil && config != "" {
		config = abs
	}
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Env = append(os.Environ(),
		"VMSTREAM_HOOK_CONFIG="+config, "VMSTREAM_HOOK_DIRECTORY="+filepath.Dir(config), "VMSTREAM_HOOK_NAME="+r.made)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 5 * time.Second
	r.log.say("Registering: %s", config)
	out, err := c.CombinedOutput()
	said := strings.TrimSpace(strings.ToValidUTF8(string(out[:min(len(out), 2048)]), "?"))
	switch {
	case err != nil && said != "":
		r.log.warn("--register: " + err.Error() + ": " + strings.ReplaceAll(said, "\n", "; "))
	case err != nil:
		r.log.warn("--register: " + err.Error())
	case said != "":
		r.log.detail("--register: %s", said)
	}
}
