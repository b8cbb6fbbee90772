// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"bytes"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const licenceLine = "// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0\n"

func TestLicenceLines(t *testing.T) {
	for _, f := range loadTree(t).files {
		if !bytes.HasPrefix(f.src, []byte(licenceLine)) {
			t.Errorf("%s: does not begin with the line %q", f.name, strings.TrimSpace(licenceLine))
		}
	}
}

// maxLines is where a file has become too long to be read in one go.
const maxLines = 500

// longFiles are the files that may be longer, and why.
var longFiles = map[string]string{
	"vmdk/gen_test.go":  "the generators of all kinds of extents, with the helpers that they share",
	"vmdk/open_test.go": "tables of what may be opened, by which names, and what is refused",
}

func TestFileLengths(t *testing.T) {
	tr := loadTree(t)
	for _, f := range tr.files {
		why, listed := longFiles[f.name]
		switch {
		case bytes.Contains(f.src, []byte("\n// Code generated ")):
			// nobody reads it
		case f.lines > maxLines && !listed:
			t.Errorf("%s: %d lines; split it, or give a reason in longFiles", f.name, f.lines)
		case f.lines <= maxLines && listed:
			t.Errorf("%s: %d lines, no longer above %d: take it out of longFiles", f.name, f.lines, maxLines)
		case listed && why == "":
			t.Errorf("%s: listed in longFiles without a reason", f.name)
		}
	}
	for name := range longFiles {
		if !slices.ContainsFunc(tr.files, func(f *sourceFile) bool { return f.name == name }) {
			t.Errorf("%s: listed in longFiles, but there is no such file", name)
		}
	}
}

// processWide belong to programs: a library that touches them mixes its words
// into the stream on stdout, or ends somebody else's process.
var processWide = map[string][]string{
	"os":  {"Exit", "Stdin", "Stdout"},
	"fmt": {"Print", "Printf", "Println"},
}

func TestStandardStreams(t *testing.T) {
	tr := loadTree(t)
	for _, f := range tr.files {
		if f.isTest || f.isMain || strings.HasPrefix(f.pkg, "cmd/") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(processWide[x.Name], s.Sel.Name) {
				name, line := tr.line(f, s.Pos())
				t.Errorf("%s:%d: %s.%s outside a program; take a reader, a writer or return an error", name, line, x.Name, s.Sel.Name)
			}
			return true
		})
	}
}

func TestFuzzSeeds(t *testing.T) {
	tr := loadTree(t)
	found := 0
	for _, f := range tr.files {
		if !f.isTest {
			continue
		}
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			found++
			dir := filepath.Join(tr.root, filepath.FromSlash(f.pkg), "testdata", "fuzz", fn.Name.Name)
			if files, err := os.ReadDir(dir); (err != nil || len(files) == 0) && !addsSeeds(fn) {
				name, line := tr.line(f, fn.Pos())
				t.Errorf("%s:%d: %s has no seeds: neither f.Add nor files in testdata/fuzz/%[3]s", name, line, fn.Name.Name)
			}
		}
	}
	if found == 0 {
		t.Error("the tree has no fuzz target")
	}
}

// addsSeeds reports if a fuzz target calls Add on its argument, or hands it to
// a function that can.
func addsSeeds(fn *ast.FuncDecl) bool {
	params := fn.Type.Params.List
	if len(params) != 1 || len(params[0].Names) != 1 {
		return false
	}
	f := params[0].Names[0].Name
	isF := func(e ast.Expr) bool {
		x, ok := e.(*ast.Ident)
		return ok && x.Name == f
	}
	adds := false
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && isF(s.X) {
			adds = adds || s.Sel.Name == "Add"
		} else if id, ok := call.Fun.(*ast.Ident); ok && strings.Contains(strings.ToLower(id.Name), "seed") {
			adds = adds || slices.ContainsFunc(call.Args, isF)
		}
		return true
	})
	return adds
}

func TestDocComments(t *testing.T) {
	tr := loadTree(t)
	hasComment := map[string]bool{}
	for _, f := range tr.files {
		if f.isTest {
			continue
		}
		hasComment[f.pkg] = hasComment[f.pkg] || f.syntax.Doc != nil
		if !f.public() {
			continue
		}
		for _, d := range f.syntax.Decls {
			for _, id := range undocumented(d) {
				name, line := tr.line(f, id.Pos())
				t.Errorf("%s:%d: %s has no doc comment", name, line, id.Name)
			}
		}
	}
	for pkg, ok := range hasComment {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// undocumented returns the exported names of a declaration that neither have a
// comment nor stand in a group that has one.
func undocumented(d ast.Decl) []*ast.Ident {
	var names []*ast.Ident
	note := func(id *ast.Ident, docs ...*ast.CommentGroup) {
		if id.IsExported() && !slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil }) {
			names = append(names, id)
		}
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || receiverExported(d.Recv) {
			note(d.Name, d.Doc)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				group := d.Doc
				if d.Lparen != token.NoPos {
					group = nil // every type wants its own
				}
				note(s.Name, s.Doc, group)
			case *ast.ValueSpec:
				for _, id := range s.Names {
					note(id, s.Doc, s.Comment, d.Doc)
				}
			}
		}
	}
	return names
}

func receiverExported(r *ast.FieldList) bool {
	e := r.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}
