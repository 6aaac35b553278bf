package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

type healthcheckCmd struct{ runVars }

func (c *healthcheckCmd) Run(ctx context.Context, stdout io.Writer) error {
	response, err := ask(ctx, c.RunDir, "/readyz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("asking for readiness: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New("not ready: " + strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; "))
	}
	_, err = stdout.Write(body)
	return err
}
