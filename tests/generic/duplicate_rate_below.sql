{% test duplicate_rate_below(
    model, threshold, column_name=none, combination_of_columns=none
) %}

{%- set key = combination_of_columns or [column_name] %}
{%- if key == [none] or (column_name and combination_of_columns) %}
    {%- do exceptions.raise_compiler_error(
        'duplicate_rate_below of ' ~ model
        ~ ': put it under one column, or under the model with'
        ~ ' combination_of_columns'
    ) %}
{%- elif threshold <= 0 or threshold > 1 %}
    {%- do exceptions.raise_compiler_error(
        'duplicate_rate_below of ' ~ key | join(', ')
        ~ ': threshold is a share above 0 and up to 1, not ' ~ threshold
        ~ '; where no key may repeat, use unique or'
        ~ ' dbt_utils.unique_combination_of_columns'
    ) %}
{%- endif %}

with keys as (

    select
        count(*) as row_count,
        {#- A key of which a part is null repeats nothing. #}
        case
            when {{ key | join(' is not null and ') }} is not null
                then count(*) - 1
            else 0
        end as duplicate_count
    from {{ model }}
    group by {{ key | join(', ') }}

),

counted as (

    select
        sum(row_count) as row_count,
        sum(duplicate_count) as duplicate_count
    from keys

)

select
    row_count,
    duplicate_count,
    1.0 * duplicate_count / row_count as duplicate_rate,
    {{ threshold }} as threshold
from counted
where duplicate_count >= {{ threshold }} * row_count

{% endtest %}
