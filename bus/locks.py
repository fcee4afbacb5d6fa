"""The scheduler's leader lock: a lease in Redis with an owner, renewed and released by compare (pitfalls 2.5).

Two holders are possible after a long pause; ticks carry slots, so that even then nothing is done twice.
"""

import redis

from bus.broker import connect

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class LeaderLock:
    """A named lease. `hold` takes or renews it."""

    def __init__(self, redis_url: str, name: str, owner: str, ttl_s: float = 6.0) -> None:
        self._client = connect(redis_url, timeout_s=1.0)
        self._key = f"clos:leader:{name}"
        self._owner = owner
        self._ttl_ms = int(ttl_s * 1000)
        self._renew = self._client.register_script(_RENEW)
        self._release = self._client.register_script(_RELEASE)

    def hold(self) -> bool:
        """Whether the lock is ours for another `ttl_s`. False as well while Redis is away."""
        try:
            if self._renew(keys=[self._key], args=[self._owner, self._ttl_ms]):
                return True
            return bool(self._client.set(self._key, self._owner, nx=True, px=self._ttl_ms))
        except (redis.RedisError, OSError):
            return False

    def release(self) -> None:
        """Let it go, so that another one need not wait."""
        try:
            self._release(keys=[self._key], args=[self._owner])
        except (redis.RedisError, OSError):
            return
        finally:
            self._client.close()
