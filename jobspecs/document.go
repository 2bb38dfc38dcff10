package jobspecs

import (
	"errors"
	"reflect"
)

// Document is a deployment together with the places of its fields, so that checks beyond this package (engines,
// clusters) can name file and line too.
type Document struct {
	Deployment Deployment
	name       string
	where      map[string]Position
}

// Parse reads a deployment file: defaults are filled in, and everything is checked that can be checked without knowing
// engines and clusters. name is for messages. The error is of type Errors and holds all that is wrong.
func Parse(name string, src []byte) (Deployment, error) {
	doc, err := ParseDocument(name, src)
	if err != nil {
		return Deployment{}, err
	}
	return doc.Deployment, nil
}

// ParseDocument is Parse for callers that check further. With an error of type Errors it still returns a document, whose
// deployment must not be used, but which can Locate more problems.
func ParseDocument(name string, src []byte) (*Document, error) {
	doc := &Document{name: name, where: map[string]Position{}}
	root, problem := parseSyntax(src)
	if problem != nil {
		problem.File = name
		return doc, Errors{*problem}
	}
	d := decoder{where: doc.where}
	v := blank(reflect.TypeFor[Deployment]())
	d.decode(place{}, root, v)
	doc.Deployment = v.Interface().(Deployment)
	derive(&doc.Deployment)
	d.deployment(doc.Deployment)
	return doc, d.counted(doc.Locate(d.errs.Err()))
}

// Position is where a field stands, or else the section around it that the file has.
func (d *Document) Position(path string) Position {
	for {
		if p, ok := d.where[path]; ok {
			return p
		}
		if path == "" {
			return Position{1, 1}
		}
		path = parent(path)
	}
}

// Locate fills file and line into an error of type Errors, and puts it into the order of the file. Other errors, nil
// included, come back as they are.
func (d *Document) Locate(err error) error {
	var errs Errors
	if !errors.As(err, &errs) {
		return err
	}
	located := make(Errors, len(errs))
	for i, p := range errs {
		p.File = d.name
		if p.Line == 0 {
			at := d.Position(p.Path)
			p.Line, p.Column = at.Line, at.Column
		}
		located[i] = p
	}
	located.sort()
	return located
}

// Validate checks a complete deployment, as Parse returns one. The error is of type Errors, without file and lines.
func Validate(d Deployment) error {
	var c checker
	c.deployment(d)
	return c.counted(c.errs.Err())
}
