// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"path/filepath"
	"strings"
)

// registerPresets are commands that --register has names for.
var registerPresets = map[string]string{
	"vmware-cmd": `vmware-cmd -s register "$VMSTREAM_HOOK_PATH"`,
}

// registerVM runs the hook that tells a product of the VM. Names reach it in its
// environment, so that no shell reads them.
func (r *vmres) registerVM(ctx context.Context) {
	script := r.register
	if preset, ok := registerPresets[script]; ok {
		script = preset
	}
	h := &hooks{timeout: hookTimeout, name: r.made, path: configurationOf(r.paths)}
	r.log.say("Registering: %s", h.path)
	if err := h.run(ctx, r.a, "register", script, 0); err != nil {
		r.log.warn(err.Error())
	}
}

// configurationOf returns the absolute path of the configuration among files.
func configurationOf(paths []string) string {
	for _, p := range paths {
		switch strings.ToLower(filepath.Ext(p)) {
		case ".vmx", ".cfg":
			if abs, err := filepath.Abs(p); err == nil {
				return abs
			}
			return p
		}
	}
	return ""
}
