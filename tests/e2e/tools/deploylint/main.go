// deploylint reads what no other linter of ours knows: Compose files, and the
// custom resources of the Prometheus operator.
//
//	deploylint compose FILE...     each is a valid Compose project
//	deploylint operator < YAML     its ServiceMonitors and PrometheusRules have no unknown or ill-typed field
//	deploylint server DIR < YAML   writes what the server would read: its variables to DIR/env, its file to DIR/larder.toml
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "deploylint:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "compose":
		for _, file := range args[1:] {
			if err := compose(file); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		return nil
	case len(args) == 1 && args[0] == "operator":
		return operator(os.Stdin)
	case len(args) == 2 && args[0] == "server":
		return server(os.Stdin, args[1])
	}
	return errors.New("usage: deploylint compose FILE... | operator < YAML | server DIR < YAML")
}

func compose(file string) error {
	options, err := cli.NewProjectOptions([]string{file},
		cli.WithWorkingDirectory(filepath.Dir(file)), cli.WithName("larder"), cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Type != "bind" {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				return fmt.Errorf("service %s mounts what is not there: %w", name, err)
			}
		}
	}
	for name, config := range project.Configs {
		if config.File == "" {
			continue
		}
		if _, err := os.Stat(config.File); err != nil {
			return fmt.Errorf("config %s: %w", name, err)
		}
	}
	fmt.Printf("%s: %d services\n", filepath.Base(file), len(project.Services))
	return nil
}

func operator(input io.Reader) error {
	seen := 0
	err := each(input, func(kind metav1.TypeMeta, document []byte) error {
		if kind.APIVersion != "monitoring.coreos.com/v1" {
			return nil
		}
		var into any
		switch kind.Kind {
		case "ServiceMonitor":
			into = &monitoring.ServiceMonitor{}
		case "PrometheusRule":
			into = &monitoring.PrometheusRule{}
		default:
			return errors.New("this kind is not known")
		}
		seen++
		return strict.UnmarshalStrict(document, into)
	})
	if err == nil {
		fmt.Printf("%d resources of the Prometheus operator\n", seen)
	}
	return err
}

// What is read of the resources that make a server.
type resource struct {
	StringData map[string]string
	Spec       struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Env []struct{ Name, Value string }
				}
			}
		}
	}
}

func server(input io.Reader, dir string) error {
	var env bytes.Buffer
	var file string
	err := each(input, func(kind metav1.TypeMeta, document []byte) error {
		var read resource
		switch kind.Kind {
		case "Deployment", "StatefulSet", "Secret":
		default:
			return nil
		}
		if err := strict.Unmarshal(document, &read); err != nil {
			return err
		}
		file += read.StringData["larder.toml"]
		for _, container := range read.Spec.Template.Spec.Containers {
			for _, variable := range container.Env {
				fmt.Fprintf(&env, "%s=%s\n", variable.Name, variable.Value)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if env.Len() == 0 {
		return errors.New("no server has any variable")
	}
	if err := os.WriteFile(filepath.Join(dir, "env"), env.Bytes(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "larder.toml"), []byte(file), 0o600)
}

// Calls a function for each document of a stream of YAML.
func each(input io.Reader, look func(metav1.TypeMeta, []byte) error) error {
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var kind metav1.TypeMeta
		if err := strict.Unmarshal(document, &kind); err != nil {
			return err
		}
		if err := look(kind, document); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
	}
}
