package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Account is the account of the bed's people, where there is accounting.
const Account = "lab"

const dbdPort = 6819

// accountingConf is what slurm.conf says of the accounting.
func (b *Bed) accountingConf() string {
	if !b.opts.Accounting {
		return "AccountingStorageType=accounting_storage/none\n"
	}
	return fmt.Sprintf("AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=login\nAccountingStoragePort=%d\n"+
		"AccountingStoragePass=%s\nAccountingStorageTRES=gres/gpu,gres/gpu:h100\nAccountingStoreFlags=job_comment\n"+
		"AccountingStorageEnforce=associations,limits,qos\n", dbdPort, b.path("run/munge.socket"))
}

func (b *Bed) slurmdbdConf() string {
	return strings.ReplaceAll(fmt.Sprintf(`AuthType=auth/munge
AuthInfo=socket=$BED/run/munge.socket
DbdHost=login
DbdPort=%d
SlurmUser=root
LogFile=$BED/log/slurmdbd.log
PidFile=$BED/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
`, dbdPort), "$BED", b.Dir)
}

// startAccounting starts a MariaDB that only a socket leads to, slurmdbd, and gives the bed's people their account. It comes before
// slurmctld.
func (b *Bed) startAccounting(ctx context.Context) error {
	if b.root != "" {
		return errors.New("a bed with accounting is one of this machine's own Slurm: the chroots have no slurmdbd")
	}
	for _, program := range []string{"mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("accounting needs %s (tests/needs.sh slow): %w", program, err)
		}
	}
	if err := os.MkdirAll(b.path("db"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(b.path("etc/slurmdbd.conf"), []byte(b.slurmdbdConf()), 0o600); err != nil {
		return err
	}
	if _, err := b.Root(ctx, "mariadb-install-db", "--no-defaults", "--user=root", "--datadir="+b.path("db"), "--auth-root-authentication-method=socket", "--skip-test-db"); err != nil {
		return err
	}
	if err := b.daemon(ctx, "mariadb", nil, "mariadbd", "--no-defaults", "--user=root", "--datadir="+b.path("db"), "--socket="+b.dbSocket(), "--skip-networking",
		"--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--pid-file="+b.path("run/mariadb.pid")); err != nil {
		return err
	}
	if err := b.Until(ctx, "the database answers", func() (bool, error) {
		_, err := b.Root(ctx, "mariadb", "--no-defaults", "--socket="+b.dbSocket(), "-e", "create database if not exists slurm_acct_db")
		return err == nil, err
	}); err != nil {
		return err
	}
	if err := b.daemon(ctx, "slurmdbd", []string{"MYSQL_UNIX_PORT=" + b.dbSocket()}, "slurmdbd", "-D"); err != nil {
		return err
	}
	if err := b.Until(ctx, "slurmdbd answers", func() (bool, error) {
		_, err := b.Root(ctx, "sacctmgr", "-n", "list", "cluster")
		return err == nil, err
	}); err != nil {
		return err
	}
	for _, words := range [][]string{
		{"add", "cluster", "bed"},
		{"add", "account", Account, "Description=bed", "Organization=bed"},
		{"add", "user", Alice.Name + "," + Bob.Name + ",root", "Account=" + Account},
	} {
		if _, err := b.Root(ctx, append([]string{"sacctmgr", "-i"}, words...)...); err != nil {
			return err
		}
	}
	return nil
}

// dbSocket is short enough for a socket's path whatever the bed is called.
func (b *Bed) dbSocket() string { return b.path("run", "db.sock") }

// daemon starts a process on the login node that stays until the node ends. Its output goes into the bed's log folder.
func (b *Bed) daemon(ctx context.Context, name string, env []string, argv ...string) error {
	log, err := os.Create(b.path("log", filepath.Base(name)+".out"))
	if err != nil {
		return err
	}
	cmd := b.Login().Command(context.WithoutCancel(ctx), Root, env, append([]string{"setsid", "--fork"}, argv...)...)
	cmd.Stdout, cmd.Stderr = log, log
	return errors.Join(cmd.Run(), log.Close())
}

// LimitJobs lets a user run so many jobs at a time; 0 = any number.
func (b *Bed) LimitJobs(ctx context.Context, u User, n int) error {
	limit := strconv.Itoa(n)
	if n == 0 {
		limit = "-1"
	}
	_, err := b.Root(ctx, "sacctmgr", "-i", "modify", "user", u.Name, "set", "MaxJobs="+limit)
	return err
}
