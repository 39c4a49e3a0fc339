{% macro resolve_changes(changes, key, columns, state, sent_as) -%}

{%- set keys = quoted(key) %}
{%- set names = quoted(columns) %}
{%- set place = '_generation, _lsn, _seq' %}
{%- set stamps = '_committed_at, _load_id, _loaded_at' %}
{%- set of_key = 'partition by ' ~ keys | join(', ') ~ ' order by ' ~ place %}
{%- set events = changes_to_apply(changes, key, columns, state, sent_as) -%}

with recursive events as (

    {{ delete_truncated(changes, keys, names, events) }}

),

{# A row lives from when it is inserted until it is deleted; whatever has its key
   then is another row. -#}
lives as (

    select
        *,
        coalesce(sum(case when _op = 'd' then 1 else 0 end) over (
            {{ of_key }} rows between unbounded preceding and 1 preceding
        ), 0) + sum(case when _op in ('c', 'r') then 1 else 0 end) over (
            {{ of_key }} rows unbounded preceding
        ) as _life,
        lead(_op) over ({{ of_key }}) is null as _is_last
    from events

),

{# An update that changes the key is a delete and right behind it an insert, which
   may leave out what the row had under its old key. -#}
moves as (

    select
        {%- for each in keys %}
        moved.{{ each }},
        origin.{{ each }} as _from_{{ loop.index }},
        {%- endfor %}
        moved._life,
        origin._life as _from_life
    from lives as moved
    inner join lives as origin
        on
            moved._generation = origin._generation
            and moved._lsn = origin._lsn
            and moved._seq = origin._seq + 1
            and origin._op = 'd'
    where
        moved._op = 'c'
        and (
            {%- for column in names %}
            moved.{{ column }} is null {{- ' or' if not loop.last }}
            {%- endfor %}
        )

),

{# Rows that moved, each with the key and the life it had at first. -#}
threads as (

    select moves.* from moves
    left join moves as earlier
        on
            {%- for each in keys %}
            moves._from_{{ loop.index }} = earlier.{{ each }} and
            {%- endfor %}
            moves._from_life = earlier._life
    where earlier._life is null
    union all
    select
        {%- for each in keys %}
        moves.{{ each }},
        threads._from_{{ loop.index }},
        {%- endfor %}
        moves._life,
        threads._from_life
    from moves
    inner join threads
        on
            {%- for each in keys %}
            moves._from_{{ loop.index }} = threads.{{ each }} and
            {%- endfor %}
            moves._from_life = threads._life

),

filled as (

    select
        {%- for each in keys %}
        lives.{{ each }},
        {%- endfor %}
        {%- for column in names %}
        {{ last_known('lives.' ~ column) }} over thread as {{ column }},
        {%- endfor %}
        lives._op,
        lives._is_state,
        lives._is_last,
        {%- for each in (place ~ ', ' ~ stamps).split(', ') %}
        lives.{{ each }} {{- ',' if not loop.last }}
        {%- endfor %}
    from lives
    left join threads
        on
            {%- for each in keys %}
            lives.{{ each }} = threads.{{ each }} and
            {%- endfor %}
            lives._life = threads._life
    window thread as (
        partition by
            {%- for each in keys %}
            coalesce(threads._from_{{ loop.index }}, lives.{{ each }}),
            {%- endfor %}
            coalesce(threads._from_life, lives._life)
        order by lives._generation, lives._lsn, lives._seq
    )

)

select
    {{ keys | join(', ') }},
    {%- for column in names %}
    {{ column }}.boxed as {{ column }},
    {%- endfor %}
    _op,
    _is_state,
    _is_last,
    {{ place }},
    {{ stamps }}
from filled
{%- endmacro %}
