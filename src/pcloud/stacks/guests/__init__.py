"""Guests of stacks: one deployable a stack, each server one assembly of it.

`assemblies` is what resource types call: it adds, changes and removes one assembly. `platform` puts the daemon's engine
behind `pcloud.stacks.platform.Platform`. `catalogue` says what names of images, sizes and packages mean here; `seed`
writes what one guest alone gets (user data, metadata, keys); `endpoint` is where guests reach the APIs.
"""
