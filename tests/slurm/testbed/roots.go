package testbed

import "context"

func rootOf(ctx context.Context, version string) (string, error) { return "", nil }

func inRoot(root string) []string {
	if root == "" {
		return nil
	}
	return []string{"chroot", root}
}
func (b *Bed) accountingConf() string                    { return "" }
func (b *Bed) startAccounting(ctx context.Context) error { return nil }
