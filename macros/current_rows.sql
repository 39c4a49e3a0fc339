{% macro current_rows(changes, key, columns) -%}
    {%- set order = '_generation desc, _lsn desc, _seq desc' -%}
    select
        {{ key }},
        {%- for column in columns %}
        {#- A value that was not sent is the last one that was. -#}
        {{- '\n        ' -}}
        first_value({{ column }}) over (
            partition by {{ key }}, _life
            order by
                case when {{ is_unchanged(column) }} then 1 else 0 end, _age
        ) as {{ column }},
        {%- endfor %}
        _op,
        _age,
        _load_id,
        _loaded_at
    from (
        select
            since.*,
            row_number() over (
                partition by since.{{ key }}
                order by {{ order }}
            ) as _age,
            {#- A key that was deleted begins anew: nothing of before counts. -#}
            {{- '\n            ' -}}
            coalesce(sum(case when since._op = 'd' then 1 else 0 end) over (
                partition by since.{{ key }}
                order by _generation, _lsn, _seq
                rows between unbounded preceding and 1 preceding
            ), 0) as _life
        from {{ changes }} as since
        left join (
            select
                _generation as cut_generation,
                _lsn as cut_lsn,
                _seq as cut_seq,
                row_number() over (order by {{ order }}) as cut_age
            from {{ changes }}
            where _op = 't'
        ) as truncation on truncation.cut_age = 1
        where
            since._op <> 't'
            and (
                truncation.cut_age is null
                or since._generation > truncation.cut_generation
                or (
                    since._generation = truncation.cut_generation
                    and (
                        since._lsn > truncation.cut_lsn
                        or (
                            since._lsn = truncation.cut_lsn
                            and since._seq > truncation.cut_seq
                        )
                    )
                )
            )
    ) as alive
{%- endmacro %}
