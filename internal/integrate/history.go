// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package integrate connects vmstream with backup software that calls programs:
// it writes their configuration, and keeps what levels need, the indexes of
// earlier backups, until the software has said that they are stored.
package integrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/wholefile"
	"github.com/vmstream/vmstream/stream"
)

// Level is what a job of Bacula or Bareos backs up.
type Level string

// The levels of backup jobs.
const (
	Full         Level = "Full"
	Differential Level = "Differential" // since the last full one
	Incremental  Level = "Incremental"  // since the last one
)

// ParseLevel understands the words of Bacula and the letters of Bareos. What is
// neither is a full backup: that stands alone.
func ParseLevel(s string) Level {
	switch s {
	case string(Differential), "D":
		return Differential
	case string(Incremental), "I":
		return Incremental
	}
	return Full
}

var (
	jobTime   = `[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}\.[0-9]{2}\.[0-9]{2}`
	jobName   = regexp.MustCompile(`\.(` + jobTime + `)_[0-9]+$`)
	sinceTime = regexp.MustCompile(`^` + jobTime + `$`)
)

// JobTime returns the time in the unique name of a job, NAME.2006-01-02_15.04.05_01,
// or "" if it has none.
func JobTime(name string) string {
	if m := jobName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// SinceTime returns s if it is a time as JobTime returns it, and otherwise "":
// other software has other forms, which cannot be compared.
func SinceTime(s string) string {
	if !sinceTime.MatchString(s) {
		return ""
	}
	return s
}

// Job is a run of a backup job.
type Job struct {
	Format string `json:"format"`
	ID     int64  `json:"id"` // of the backup software
	Level  Level  `json:"level"`
	// Scheduled is when the job was made, as the director's clock had it, in
	// the form 2006-01-02_15.04.05; "" if the software does not tell.
	Scheduled string `json:"scheduled,omitempty"`
	ParentID  int64  `json:"parent_id,omitempty"` // job that an increment is one on
	Whole     bool   `json:"whole"`               // the stream was written to its end
	Stored    bool   `json:"stored"`              // the software said that all went well
}

const (
	jobFormat   = "vmstream-job/1"
	maxJobBytes = 64 << 10
	maxJobs     = 1 << 14
)

// History has the runs of one job, in a directory of its own. Runs of one job do not
// overlap; those of several jobs may.
type History struct{ dir string }

// OpenHistory returns the history of a job of this software below the state
// directory, which is made if it does not exist.
func OpenHistory(stateDir, software, job string) (*History, error) {
	if !stream.ValidName(job) {
		return nil, fmt.Errorf("%q is no name of a job", job)
	}
	dir := filepath.Join(stateDir, software, job)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &History{dir: dir}, nil
}

// IndexPath returns where the index of a run is.
func (h *History) IndexPath(id int64) string { return h.path(id, ".index") }

func (h *History) path(id int64, suffix string) string {
	return filepath.Join(h.dir, strconv.FormatInt(id, 10)+suffix)
}

// Save notes a run.
func (h *History) Save(j Job) error {
	j.Format = jobFormat
	b, err := json.Marshal(&j)
	if err != nil {
		return err
	}
	return wholefile.Write(h.path(j.ID, ".json"), append(b, '\n'), 0o600)
}

// Load returns a run; errors.Is finds fs.ErrNotExist if there is none.
func (h *History) Load(id int64) (Job, error) {
	var j Job
	path := h.path(id, ".json")
	f, err := disk.OpenRegular(path)
	if err != nil {
		return j, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxJobBytes))
	if err != nil {
		return j, err
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return j, fmt.Errorf("%s: %w: %w", path, err, disk.ErrCorrupt)
	}
	if j.Format != jobFormat || j.ID != id {
		return j, fmt.Errorf("%s: not the record of run %d: %w", path, id, disk.ErrUnsupported)
	}
	return j, nil
}

// Drop forgets a run.
func (h *History) Drop(id int64) error {
	err := os.Remove(h.path(id, ".json"))
	if ierr := os.Remove(h.IndexPath(id)); ierr != nil && !errors.Is(ierr, fs.ErrNotExist) {
		err = errors.Join(err, ierr)
	}
	return err
}

// Jobs returns all runs, oldest first. One that cannot be read is passed over:
// nothing builds on it.
func (h *History) Jobs() ([]Job, error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, err
	}
	var all []Job
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".json")
		id, err := strconv.ParseInt(stem, 10, 64)
		if !ok || err != nil || len(all) == maxJobs {
			continue
		}
		if j, err := h.Load(id); err == nil {
			all = append(all, j)
		}
	}
	slices.SortFunc(all, func(a, b Job) int { return int(min(max(a.ID-b.ID, -1), 1)) })
	return all, nil
}

// Parent returns the run that one of this level is an increment on, or nil if it
// has to be full. since is the time from which on the software asks for
// changes: that at which the last good job, or the last good full one,
// began; "" if it does not tell.
//
// A run that was stored as far as its client knew may have failed on the side
// of the server afterwards. It was made after since then, and is not taken.
func (h *History) Parent(level Level, since string) (*Job, error) {
	if level == Full {
		return nil, nil
	}
	all, err := h.Jobs()
	if err != nil {
		return nil, err
	}
	for _, j := range slices.Backward(all) {
		switch {
		case !j.Stored || level == Differential && j.Level != Full:
		case since != "" && (j.Scheduled == "" || j.Scheduled > since):
		default:
			if _, err := os.Stat(h.IndexPath(j.ID)); err == nil {
				return &j, nil
			}
		}
	}
	return nil, nil
}

// Store notes that a run is stored, and forgets those that nothing can be an
// increment on any more: what is older than the full backup before the last.
func (h *History) Store(j Job) error {
	j.Stored = true
	if err := h.Save(j); err != nil {
		return err
	}
	all, err := h.Jobs()
	if err != nil {
		return err
	}
	fulls := 0
	for _, old := range slices.Backward(all) {
		if fulls >= 2 || old.ID < j.ID && !old.Stored {
			if err := h.Drop(old.ID); err != nil {
				return err
			}
		} else if old.Level == Full {
			fulls++
		}
	}
	return nil
}
