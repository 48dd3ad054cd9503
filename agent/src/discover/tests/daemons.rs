//! Databases, Redis, ModSecurity and the kernel.

use super::*;

#[test]
fn their_logs_are_where_their_configuration_says() {
    for (files, kind, want) in [
        (
            &[
                ("etc/mysql/my.cnf", "[client]\nlog_error=/no\n!includedir /etc/mysql/conf.d/\n"),
                ("etc/mysql/conf.d/a.cnf", "[mysqld]\nlog-error = /var/log/mysql/own.err # here\n"),
            ][..],
            LogKind::Mysql,
            Some("var/log/mysql/own.err"),
        ),
        (
            &[("etc/my.cnf", "[mariadb-10.5]\ndatadir=/data\nlog_error=m.err\n")],
            LogKind::Mysql,
            Some("data/m.err"),
        ),
        (&[("var/log/mysqld.log", "")], LogKind::Mysql, Some("var/log/mysqld.log")),
        (&[("var/lib/mysql/box.err", "")], LogKind::Mysql, Some("var/lib/mysql/box.err")),
        (
            &[(
                "etc/redis/redis.conf",
                "# logfile /no\nlogfile \"\"\nlogfile /var/log/redis/r.log\n",
            )],
            LogKind::Redis,
            Some("var/log/redis/r.log"),
        ),
        (&[("etc/redis.conf", "logfile \"\"\n")], LogKind::Redis, None),
        (
            &[(
                "etc/modsecurity/modsecurity.conf",
                "SecAuditEngine RelevantOnly\nSecAuditLog /var/log/modsec.log\n",
            )],
            LogKind::Modsecurity,
            Some("var/log/modsec.log"),
        ),
        (
            &[(
                "etc/modsecurity/modsecurity.conf",
                "SecAuditEngine Off\nSecAuditLog /var/log/modsec.log\n",
            )],
            LogKind::Modsecurity,
            None,
        ),
        (
            &[(
                "etc/apache2/apache2.conf",
                "<IfModule security2_module>\nSecAuditLog /var/log/audit.log\n</IfModule>\n",
            )],
            LogKind::Modsecurity,
            Some("var/log/audit.log"),
        ),
        (
            &[("var/log/kern.log", ""), ("var/log/messages", "")],
            LogKind::Kernel,
            Some("var/log/kern.log"),
        ),
        (&[("var/log/messages", "")], LogKind::Kernel, Some("var/log/messages")),
        (&[], LogKind::Kernel, None),
    ] {
        let root = root(files);
        let found = discover(root.path());
        let of = found.logs.iter().filter(|log| log.kind == kind).map(|log| log.path.clone());
        let want: Vec<PathBuf> = want.map(|path| root.path().join(path)).into_iter().collect();
        assert_eq!(of.collect::<Vec<_>>(), want, "{files:?}");
    }
}
