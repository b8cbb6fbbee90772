// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

const module = "github.com/vmstream/vmstream"

// sourceFile is a parsed Go file of the tree.
type sourceFile struct {
	name   string // relative to the root, with slashes
	pkg    string // directory relative to the root, with slashes
	isTest bool
	isMain bool // of a program
	lines  int
	src    []byte
	syntax *ast.File
}

// tree is every Go file of the repository.
type tree struct {
	root  string
	fset  *token.FileSet
	files []*sourceFile
}

// loadTree parses all Go files that the go command would build or test on any
// platform. What a build leaves behind, and test data, is passed over.
func loadTree(t *testing.T) *tree {
	t.Helper()
	tr := &tree{root: testenv.Root(t), fset: token.NewFileSet()}
	err := filepath.WalkDir(tr.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			hidden := strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")
			atRoot := filepath.Dir(p) == tr.root
			if p != tr.root && (hidden || base == "testdata" || atRoot && (base == "bin" || base == "out")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		return tr.add(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.files) < 50 {
		t.Fatalf("found %d Go files under %s: that is not the whole tree", len(tr.files), tr.root)
	}
	return tr
}

func (tr *tree) add(p string) error {
	src, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(tr.root, p)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	syntax, err := parser.ParseFile(tr.fset, p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	tr.files = append(tr.files, &sourceFile{
		name: rel, pkg: path.Dir(rel), isTest: strings.HasSuffix(rel, "_test.go"),
		isMain: syntax.Name.Name == "main", lines: bytes.Count(src, []byte{'\n'}),
		src: src, syntax: syntax,
	})
	return nil
}

// line returns where a node is, for messages.
func (tr *tree) line(f *sourceFile, pos token.Pos) (string, int) {
	return f.name, tr.fset.Position(pos).Line
}

// packages returns the directories that have Go files.
func (tr *tree) packages() map[string]bool {
	m := map[string]bool{}
	for _, f := range tr.files {
		m[f.pkg] = true
	}
	return m
}

// imports returns the paths that a file imports.
func (f *sourceFile) imports() []string {
	var all []string
	for _, s := range f.syntax.Imports {
		all = append(all, strings.Trim(s.Path.Value, `"`))
	}
	return all
}

// public reports if others may import the file's package.
func (f *sourceFile) public() bool {
	return !f.isMain && !strings.HasPrefix(f.pkg, "internal") && !strings.HasPrefix(f.pkg, "cmd") &&
		!strings.Contains("/"+f.pkg+"/", "/internal/")
}
