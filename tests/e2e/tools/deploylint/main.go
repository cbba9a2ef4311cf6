// deploylint reads what no other linter of ours knows: Compose files, and the
// custom resources of the Prometheus operator.
//
//	deploylint compose FILE...     each is a valid Compose project
//	deploylint operator < YAML     its ServiceMonitors and PrometheusRules have no unknown or ill-typed field
package main

import (
	"bufio"
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
	}
	return errors.New("usage: deploylint compose FILE... | operator < YAML")
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
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	seen := 0
	for {
		document, err := documents.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		var kind metav1.TypeMeta
		if err := strict.Unmarshal(document, &kind); err != nil {
			return err
		}
		if kind.APIVersion != "monitoring.coreos.com/v1" {
			continue
		}
		var into any
		switch kind.Kind {
		case "ServiceMonitor":
			into = &monitoring.ServiceMonitor{}
		case "PrometheusRule":
			into = &monitoring.PrometheusRule{}
		default:
			return fmt.Errorf("kind %s is not known", kind.Kind)
		}
		if err := strict.UnmarshalStrict(document, into); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
		seen++
	}
	fmt.Printf("%d resources of the Prometheus operator\n", seen)
	return nil
}
