#!/bin/sh
# Makes VERSION.txt beside this script: what the test-runner.py of the OpenZFS checkout CHECKOUT prints for small scripts that
# pass, fail, are skipped, hang, and cannot be run. Run it as root, since the runner calls another user's tests through sudo.
#
#     make.sh VERSION CHECKOUT
set -eu
version=$1 runner=$2/tests/test-runner/bin/test-runner.py.in
here=$(cd "$(dirname "$0")" && pwd)
place=/tmp/demo
rm -rf $place /var/tmp/test_results
mkdir -p $place/bin $place/site
mkdir -m 1777 /var/tmp/test_results
cat >$place/bin/sudo <<'SUDO'
#!/bin/sh
while :; do
	case $1 in
	-E | -n) shift ;;
	-u) shift 2 ;;
	*) break ;;
	esac
done
exec "$@"
SUDO
script() {
	file=$place/suite/zfs-tests/tests/functional/$1.ksh
	mkdir -p "$(dirname "$file")"
	printf '#!/bin/sh\n%s\n' "$2" >"$file"
	chmod 755 "$file"
}
chmod 755 $place/bin/sudo
script plain/setup 'exit 0'
script plain/passes 'echo fine'
script plain/fails 'echo "Test: this is no result [00:00] [PASS]"; exit 1'
script plain/skipped 'exit 4'
script plain/hangs 'exec sleep 60'
script plain/of_linux 'exit 0'
script plain/cleanup 'exit 0'
script skipping/setup 'exit 4'
script skipping/never_run 'exit 0'
script skipping/cleanup 'exit 0'
script cli_user/of_a_user/runs 'exit 0'
script a_group_with_a_name/that_is_longer_than/the_line_has_room/first 'exit 0'
script again/sleeps 'sleep 1'
# Before 2.3 the runner wants to be told where its logs go.
outputdir=$(grep ^outputdir "$2/tests/runfiles/common.run" || :)
cat >$place/tests.run <<RUN
[DEFAULT]
pre = setup
quiet = False
pre_user = root
user = root
timeout = 600
post_user = root
post = cleanup
$outputdir
tags = ['functional']

[tests/functional/plain]
tests = ['passes', 'fails', 'skipped', 'hangs', 'gone']
timeout = 2
tags = ['functional', 'plain']

[tests/functional/plain:Linux]
tests = ['of_linux']
tags = ['functional', 'plain']

[tests/functional/skipping]
tests = ['never_run']
tags = ['functional', 'skipping']

[tests/functional/again]
tests = ['sleeps']
pre =
post =
timeout = 3
tags = ['functional', 'again']

[tests/functional/cli_user/of_a_user]
tests = ['runs']
pre =
post =
user =
tags = ['functional', 'cli_user', 'of_a_user']

[tests/functional/a_group_with_a_name/that_is_longer_than/the_line_has_room]
tests = ['first']
pre =
post =
tags = ['functional', 'the_line_has_room']
RUN
# A timer that ends too early, as after a suspend of the machine: the runner then runs the test again.
cat >$place/site/sitecustomize.py <<'PYTHON'
import threading

Timer = threading.Timer


def early(interval, function, args=None, kwargs=None):
    return Timer(0.2 if interval == 3 else interval, function, args, kwargs)


threading.Timer = early
PYTHON
# The runner of 2.1 cannot run a test again; it ends in a traceback.
case $version in 2.1.*) rm $place/site/sitecustomize.py ;; esac
sed 's/@PYTHON_SHEBANG@/python3/' "$runner" >$place/test-runner.py
PYTHONPATH=$place/site PATH=$place/bin:$PATH TMPDIR=/tmp setpriv --reuid=nobody --regid=nogroup --clear-groups \
	/usr/bin/python3 $place/test-runner.py -c $place/tests.run -T functional -i $place/suite/zfs-tests \
	>"$here/$version.txt" 2>&1 || :
rm -rf $place
