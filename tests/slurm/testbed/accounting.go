package testbed

import "context"

func (b *Bed) accountingConf() string                    { return "" }
func (b *Bed) startAccounting(ctx context.Context) error { return nil }
